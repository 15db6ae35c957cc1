"""What we want to reach, and whether it is reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.bench.bounds import SOCKETS
from kvstore.bench.measurement import Point
from kvstore.bench.node_memory import NodeMemory
from kvstore.bench.python_cost import PythonCost
from kvstore.bench.results import Results
from kvstore.bench.settings import LANES
from kvstore.config import KIB, MIB, format_bytes

__all__ = ["MATCH_KEYS", "Goal", "judge"]

MATCH_KEYS: Final = 1000

_MATCH_US_MAX: Final = 100.0
_BATCH_US_MAX: Final = 10.0
_BLOCK_US_MAX: Final = 0.5
_NODE_BYTES_MAX: Final = 64 * MIB
_NODE_BYTES_A_BLOCK_MAX: Final = 200


@dataclass(frozen=True)
class Goal:
    """One goal. `measured` is what it is judged by; `reached` is None if that was not measured.

    `note` is for the reader and has no part in the verdict.
    """

    name: str
    wanted: str
    measured: str
    reached: bool | None
    note: str = ""


def judge(results: Results, costs: Mapping[str, PythonCost], memory: NodeMemory) -> list[Goal]:
    """All goals. One that names no depth must be reached at each depth; one that names no lane, over each lane."""
    return [
        _ratio_to_socket(results, block_bytes=2 * MIB, wanted=0.9),
        _ratio_to_socket(results, block_bytes=64 * KIB, wanted=1.5, depth=1),
        _ratio(results, "mapped get, 2 MiB / nt copy", _points(results, "mapped", "get", 2 * MIB), wanted=0.9),
        _ratio(results, "mapped put, 2 MiB / memcpy", _points(results, "mapped", "put", 2 * MIB), wanted=0.6),
        _match(results),
        _python(costs),
        _memory(memory),
    ]


def _points(results: Results, lane: str, verb: str, block_bytes: int, depth: int | None = None) -> list[Point]:
    """Those that were measured, by depth; all depths if none is given."""
    return [
        point
        for point in sorted(results.points)
        if (point.subject, point.verb, point.block_bytes) == (lane, verb, block_bytes) and depth in (None, point.depth)
    ]


def _ratio(results: Results, name: str, points: Sequence[Point], *, wanted: float, note: str = "") -> Goal:
    ratios = {point.depth: results.figure(point).ratio or 0.0 for point in points}
    measured = "depth " + ", ".join(f"{depth}: {ratio:.2f}" for depth, ratio in ratios.items()) if ratios else ""
    return Goal(name, f"≥ {wanted}", measured, min(ratios.values()) >= wanted if ratios else None, note)


def _ratio_to_socket(results: Results, *, block_bytes: int, wanted: float, depth: int | None = None) -> Goal:
    points = _points(results, "tcp", "get", block_bytes, depth)
    notes = []
    for socket, placement in SOCKETS.items():
        bounds = [Point(socket, "get", block_bytes, point.depth) for point in points]
        ratios = [
            results.ratio(point, [bound]) for point, bound in zip(points, bounds, strict=True) if results.has(bound)
        ]
        if ratios:
            notes.append(f"{placement}: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return _ratio(
        results, f"tcp get, {format_bytes(block_bytes)} / socket", points, wanted=wanted, note="\n".join(notes)
    )


def _match(results: Results) -> Goal:
    points = {lane: Point(lane, "match", 0, MATCH_KEYS) for lane in LANES}
    p50_us = {lane: results.figure(point).p50_s * 1e6 for lane, point in points.items() if results.has(point)}
    measured = ", ".join(f"{lane} {value:.0f} µs" for lane, value in p50_us.items())
    reached = max(p50_us.values()) <= _MATCH_US_MAX if p50_us else None
    return Goal(f"match of {MATCH_KEYS:,} keys, p50", f"≤ {_MATCH_US_MAX:.0f} µs", measured, reached)


def _python(costs: Mapping[str, PythonCost]) -> Goal:
    measured = "\n".join(
        f"{verb} {cost.batch_us:.1f} µs a call + {cost.block_us:.2f} µs a block" for verb, cost in costs.items()
    )
    reached = all(cost.batch_us <= _BATCH_US_MAX and cost.block_us <= _BLOCK_US_MAX for cost in costs.values())
    wanted = f"≤ {_BATCH_US_MAX:.0f} µs a call + {_BLOCK_US_MAX} µs a block"
    return Goal("Python's own cost", wanted, measured, reached if costs else None)


def _memory(memory: NodeMemory) -> Goal:
    name, wanted = (
        "node memory besides blocks",
        f"≤ {format_bytes(_NODE_BYTES_MAX)} + {_NODE_BYTES_A_BLOCK_MAX} B a block",
    )
    note = f"index, as the node counts it: {memory.index_bytes / memory.blocks:.0f} B a block"
    if memory.empty is None or memory.full is None:
        return Goal(name, wanted, "", None, note)
    measured = (
        f"{_mebibytes(memory.empty.total_bytes)} + {memory.block_bytes:.0f} B a block, at {memory.blocks:,} blocks"
    )
    note = f"of which programs and libraries: {_mebibytes(memory.empty.file_bytes)}\n{note}"
    budget_bytes = _NODE_BYTES_MAX + _NODE_BYTES_A_BLOCK_MAX * memory.blocks
    return Goal(name, wanted, measured, memory.full.total_bytes <= budget_bytes, note)


def _mebibytes(count_bytes: int) -> str:
    return f"{count_bytes / MIB:.1f} MiB"
