"""Replays one trace with every policy at every size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.replay.trace import RequestTrace
from kvstore.transport import native

__all__ = ["BASELINE", "DEFAULT", "PERCENTS", "Figure", "Report", "replay_all"]

PERCENTS: Final = (1, 5, 10, 25, 50)
BASELINE: Final = "LRU"
DEFAULT: Final = "reuse"


@dataclass(frozen=True)
class Figure:
    """What one policy reached at one size. `hit_ratio` counts usable hits; `policy_ns` is per block it was told of or
    asked for, `policy_bytes` per block held."""

    hit_ratio: float
    policy_ns: float
    policy_bytes: float


@dataclass(frozen=True)
class Report:
    """`figures` by policy and percent of the unique blocks; `bounds` are Belady's hit ratios, by percent."""

    name: str
    requests: int
    references: int
    unique_blocks: int
    figures: dict[str, dict[int, Figure]]
    bounds: dict[int, float]

    def closed(self, policy: str, percent: int) -> float | None:
        """The share of the gap from LRU to Belady's optimum that the policy closes; None where there is none."""
        baseline = self.figures[BASELINE][percent].hit_ratio
        gap = self.bounds[percent] - baseline
        return (self.figures[policy][percent].hit_ratio - baseline) / gap if gap > 1e-4 else None

    def worst(self, policy: str) -> float:
        """The least that the policy's hit ratio is above LRU's, over all sizes; negative where it is below."""
        baseline = self.figures[BASELINE]
        return min(self.figures[policy][percent].hit_ratio - baseline[percent].hit_ratio for percent in self.bounds)


def replay_all(
    name: str, trace: RequestTrace, *, as_engines: bool = False, percents: Sequence[int] = PERCENTS
) -> Report:
    """Raises `ValueError` for a trace whose longest request does not fit the smallest size."""
    replayer = native().Replayer(trace.blocks, trace.lengths)
    references = len(trace.blocks)
    figures: dict[str, dict[int, Figure]] = {}
    for policy in replayer.policies():
        figures[policy] = {}
        for percent in percents:
            counts = replayer.replay(
                policy=policy, capacity_blocks=trace.unique_blocks * percent // 100, as_engines=as_engines
            )
            figures[policy][percent] = Figure(
                hit_ratio=counts["usable_hits"] / references,
                policy_ns=counts["policy_ns"] / counts["operations"],
                policy_bytes=counts["policy_bytes"] / counts["blocks_held"],
            )
    bounds = {
        percent: replayer.belady_hits(capacity_blocks=trace.unique_blocks * percent // 100) / references
        for percent in percents
    }
    return Report(name, len(trace.lengths), references, trace.unique_blocks, figures, bounds)
