"""The node's counters as a Prometheus page.

What both tiers count carries the label `tier` ("dram" or "nvme"); everything else is one number a node. Where a node
has tenants, everything also carries the label `tenant`. Nothing is kept here: each scrape asks the data planes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from kvstore.errors import ConfigError
from kvstore.transport.address import NodeAddress

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["NodeCollector", "serve_metrics"]

_NVME = "nvme_"
# Counted by both tiers, in the DRAM tier's words.
_OF_A_TIER: Mapping[str, str] = {
    "capacity_bytes": "Space of the tier, bytes",
    "used_bytes": "Space taken, bytes",
    "blocks": "Blocks that are visible",
    "index_bytes": "Memory of the tier's index, bytes",
    "hits": "Blocks that were asked for and found",
    "misses": "Blocks that were asked for and not found",
    "evicted_blocks": "Blocks removed to make room",
    "evicted_bytes": "Space that evictions freed, bytes",
    "expired_blocks": "Blocks whose time to live was over",
    "deleted_blocks": "Blocks deleted by clients",
    "quarantined_blocks": "Blocks removed because their bytes were wrong",
}
_GAUGES = frozenset(
    """capacity_bytes used_bytes blocks index_bytes reserved_bytes leased_bytes leases huge_pages pinned_blocks
    pinned_bytes pinned_bytes_max sessions_open gets_waiting nvme_disks nvme_disks_in_trouble nvme_quarantined_bytes
    write_queue_blocks write_queue_bytes write_queue_lag_ms""".split()
)


class NodeCollector(Collector):
    """For a registry of `prometheus_client`."""

    def __init__(self, nodes: Mapping[str, _native.Node]) -> None:
        self._nodes = nodes
        self._labels = ["tenant"] if any(nodes) else []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """One family for each counter, or for each pair of counters of the two tiers."""
        of_all = {(tenant,) if self._labels else (): node.stats() for tenant, node in self._nodes.items()}
        names = [name for name in next(iter(of_all.values())) if name.removeprefix(_NVME) not in _OF_A_TIER]
        for name, meaning in _OF_A_TIER.items():
            family = _family(name, meaning, labels=[*self._labels, "tier"])
            for labels, counters in of_all.items():
                family.add_metric([*labels, "dram"], counters[name])
                if _NVME + name in counters:
                    family.add_metric([*labels, "nvme"], counters[_NVME + name])
            yield family
        for name in names:
            family = _family(name, name.replace("_", " "), labels=self._labels)
            for labels, counters in of_all.items():
                family.add_metric(list(labels), counters[name])
            yield family


def serve_metrics(nodes: Mapping[str, _native.Node], address: NodeAddress, opened: ExitStack) -> NodeAddress:
    """Serves `/metrics` on `address` until `opened` closes; returns the address with its real port.

    `nodes`: the data planes by tenant; the name is "" for the only tenant of a node.
    Raises `ConfigError` when the address cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(NodeCollector(nodes))
    try:
        server, thread = prometheus_client.start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be served on {address}: {error.strerror}; choose another metrics") from error
    opened.callback(thread.join)
    opened.callback(server.server_close)
    opened.callback(server.shutdown)
    return NodeAddress(address.host, server.server_port)


def _family(name: str, meaning: str, labels: list[str]) -> GaugeMetricFamily | CounterMetricFamily:
    kind = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
    return kind(f"kvstore_{name}", meaning, labels=labels)
