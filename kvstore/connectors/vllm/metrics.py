"""The connector's counters under vLLM's own metrics."""

from __future__ import annotations

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import OffloadingCounterMetadata, OffloadingGaugeMetadata, OffloadingMetricMetadata

from kvstore.connectors.core import EngineStore

__all__ = ["MetricsReader", "metric_definitions"]

_PREFIX = "vllm:kvstore_"
_COUNTERS = {
    "lookup_blocks": "Chunks that the store was asked for.",
    "lookup_hit_blocks": "Chunks that the store said to have.",
    "lookup_seconds": "Time from asking to the answer, summed over requests to the store.",
    "load_blocks": "Chunks that were asked to be loaded.",
    "load_good_blocks": "Chunks that were loaded and found to be whole.",
    "load_bytes": "Bytes of the chunks that were asked to be loaded.",
    "load_seconds": "Time of loads, summed.",
    "save_blocks": "Chunks that were sent to be saved.",
    "save_good_blocks": "Chunks that the store has since.",
    "save_bytes": "Bytes of the chunks that were sent to be saved.",
    "save_seconds": "Time of saves, summed.",
    "save_dropped_blocks": "Chunks not saved because the node was away or too much was on its way.",
    "gate_taken": "Hits that were loaded because that is faster than to compute them.",
    "gate_skipped": "Hits that were left alone because to compute them is faster.",
    "pauses": "How often a store that did not answer was left alone for a while.",
    "errors": "Requests that could not be made.",
}
_GAUGES = {
    "connected": "1 while there is a connection to a node.",
    "saving_bytes": "Bytes on their way to the node.",
}


def metric_definitions() -> dict[str, OffloadingMetricMetadata]:
    """What vLLM must know of the metrics before it meets the first value."""
    counters = {_PREFIX + name: OffloadingCounterMetadata(documentation=text) for name, text in _COUNTERS.items()}
    gauges = {_PREFIX + name: OffloadingGaugeMetadata(documentation=text) for name, text in _GAUGES.items()}
    return counters | gauges


class MetricsReader:
    """What has changed since it was last asked. For one thread."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._last: dict[str, int | float] = {}

    def read(self) -> OffloadingConnectorStats | None:
        """Increments of the counters and the gauges as they are; None where nothing has changed."""
        now = self._store.stats()
        if now == self._last:
            return None
        stats = OffloadingConnectorStats()
        for name in _COUNTERS:
            increase = now[name] - self._last.get(name, 0)
            if increase:
                stats.increase_counter(_PREFIX + name, increase)
        for name in _GAUGES:
            stats.set_gauge(_PREFIX + name, now[name])
        self._last = now
        return stats
