"""What SGLang's storage metrics are made of."""

from __future__ import annotations

from collections import deque
from typing import Final

from sglang.srt.observability.metrics_collector import StorageMetrics

__all__ = ["Transfers"]

# SGLang fetches them every few scheduler steps; an engine without metrics never does.
_KEPT_MAX: Final = 4096


class Transfers:
    """Pages and speed of recent batches, for SGLang's histograms. Thread-safe."""

    def __init__(self) -> None:
        self._loads: deque[tuple[int, float]] = deque(maxlen=_KEPT_MAX)
        self._saves: deque[tuple[int, float]] = deque(maxlen=_KEPT_MAX)

    def loaded(self, pages: int, nbytes: int, seconds: float) -> None:
        """A batch came in."""
        self._loads.append((pages, nbytes / 1e9 / max(seconds, 1e-9)))

    def saved(self, pages: int, nbytes: int, seconds: float) -> None:
        """A batch went out."""
        self._saves.append((pages, nbytes / 1e9 / max(seconds, 1e-9)))

    def take(self) -> StorageMetrics:
        """What was noted since the last call, in pages and GB/s, each once."""
        metrics = StorageMetrics()
        for noted, pages, speeds in (
            (self._loads, metrics.prefetch_pgs, metrics.prefetch_bandwidth),
            (self._saves, metrics.backup_pgs, metrics.backup_bandwidth),
        ):
            for _ in range(len(noted)):
                count, gigabytes_per_second = noted.popleft()
                pages.append(count)
                speeds.append(gigabytes_per_second)
        return metrics
