"""What was measured, round by round, and its medians."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.disk.hits import HitRates
from benchmarks.disk.noise import Noise
from benchmarks.disk.recovery import Recovery

__all__ = ["Figures", "of_latencies"]


@dataclass
class Figures:
    """`by_name` has a list of figures, one a round, for each (size of block, name); rates are in bytes a second.

    A ratio is taken within each round, so that what disturbs one round disturbs both of its sides.
    """

    by_name: dict[tuple[int, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    hits: list[HitRates] = field(default_factory=list)
    noise: list[Noise] = field(default_factory=list)
    index_bytes_a_block: dict[int, float] = field(default_factory=dict)
    recovery: Recovery | None = None

    def add(self, block_bytes: int, figures: Mapping[str, float]) -> None:
        """Of one round."""
        for name, figure in figures.items():
            self.by_name[block_bytes, name].append(figure)

    def has(self, block_bytes: int, name: str) -> bool:
        return (block_bytes, name) in self.by_name

    def median(self, block_bytes: int, name: str) -> float:
        """Raises `KeyError` for what was not measured."""
        return statistics.median(self._measured(block_bytes, name))

    def ratios(self, block_bytes: int, name: str, bound: str) -> list[float]:
        """One a round."""
        pairs = zip(self._measured(block_bytes, name), self._measured(block_bytes, bound), strict=True)
        return [one / other for one, other in pairs]

    def ratio(self, block_bytes: int, name: str, bound: str) -> float:
        """Median over rounds."""
        return statistics.median(self.ratios(block_bytes, name, bound))

    def _measured(self, block_bytes: int, name: str) -> list[float]:
        if not self.has(block_bytes, name):
            raise KeyError((block_bytes, name))
        return self.by_name[block_bytes, name]


def of_latencies(name: str, seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, float]:
    """Percentiles of single operations, in seconds, as figures."""
    p50_s, p99_s = (float(value) for value in np.percentile(seconds, (50, 99)))
    return {f"{name}, p50": p50_s, f"{name}, p99": p99_s}
