"""What we want to reach, and whether it is reached."""

from __future__ import annotations

import statistics
from typing import Final

from benchmarks.disk.figures import Figures
from benchmarks.disk.settings import LARGE_BYTES, SMALL_BYTES
from kvstore.bench.goals import Goal
from kvstore.config import format_bytes

__all__ = ["judge"]

_WRITTEN_MAX: Final = {LARGE_BYTES: 1.1, SMALL_BYTES: 1.3}
_RECOVERY_S_MAX: Final = 3.0
_INDEX_BYTES_MAX: Final = 200


def judge(figures: Figures) -> list[Goal]:
    """All goals, in the order of the report. Judged by medians; `note` has the rounds behind them."""
    goals = []
    if figures.has(LARGE_BYTES, "raw write"):
        goals += [
            _of_raw(figures, "write-back, 2 MiB / raw writes", "write-back", "raw write"),
            _of_raw(figures, "cold reads, 2 MiB, depth 8 / raw reads", "cold reads", "raw read"),
            _beside_writer(figures),
            _hits(figures),
        ]
    goals += [_written(figures, size) for size in _WRITTEN_MAX if figures.has(size, "device bytes a byte")]
    return [*goals, _index(figures), _recovery(figures)]


def _of_raw(figures: Figures, name: str, ours: str, bound: str) -> Goal:
    ratios = figures.ratios(LARGE_BYTES, ours, bound)
    ratio = statistics.median(ratios)
    return Goal(name, "≥ 0.9", f"{ratio:.2f}", ratio >= 0.9, _rounds(ratios))


def _beside_writer(figures: Figures) -> Goal:
    ratios = figures.ratios(LARGE_BYTES, "cold read beside writer, p99", "cold read, p99")
    ratio = statistics.median(ratios)
    return Goal("cold read p99, 2 MiB, beside a writer / idle", "≤ 3", f"{ratio:.1f}", ratio <= 3, _rounds(ratios))


def _hits(figures: Figures) -> Goal:
    ratios = [one.write_back / one.idle for one in figures.hits]
    ratio = statistics.median(ratios)
    raw = statistics.median(one.raw_writes / one.idle for one in figures.hits)
    note = f"{_rounds(ratios)}\nbeside raw writes, which take none of the node's time: {raw:.2f}"
    return Goal("hits in memory during write-back / idle", "≥ 0.8", f"{ratio:.2f}", ratio >= 0.8, note)


def _written(figures: Figures, size: int) -> Goal:
    written = figures.median(size, "device bytes a byte")
    most = _WRITTEN_MAX[size]
    return Goal(f"device bytes a stored byte, {format_bytes(size)}", f"≤ {most}", f"{written:.3f}", written <= most)


def _index(figures: Figures) -> Goal:
    wanted = f"≤ {_INDEX_BYTES_MAX} B"
    sizes = dict(figures.index_bytes_a_block)
    measured = max(sizes.values(), default=0.0)
    note = ""
    if figures.recovery is not None:
        blocks = figures.recovery.blocks
        measured = max(measured, figures.recovery.index_bytes / blocks)
        note = (
            f"the whole process grew by {figures.recovery.resident_bytes / blocks:.0f} B a block, at {blocks:,} blocks"
        )
    return Goal("memory of a block on disk", wanted, f"{measured:.0f} B", measured <= _INDEX_BYTES_MAX, note)


def _recovery(figures: Figures) -> Goal:
    found = figures.recovery
    name, wanted = "recovery of 1,000,000 blocks", f"≤ {_RECOVERY_S_MAX:.0f} s"
    if found is None:
        return Goal(name, wanted, "", None, "--recovery measures it")
    slowest_s = max(found.recovered_s)
    ready = ", ".join(f"{seconds:.2f}" for seconds in found.ready_s)
    note = f"process started to node ready: {ready} s (an empty node: {found.empty_ready_s:.2f} s)"
    return Goal(
        name.replace("1,000,000", f"{found.blocks:,}"), wanted, f"{slowest_s:.2f} s", slowest_s <= _RECOVERY_S_MAX, note
    )


def _rounds(ratios: list[float]) -> str:
    return "rounds: " + " ".join(f"{ratio:.2f}" for ratio in ratios)
