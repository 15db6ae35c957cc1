"""What we want to reach, and whether it is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """One goal. `measured` names each value that it is judged by; `reached` is None if nothing was measured.

    `note` is for the reader and has no part in the verdict.
    """

    name: str
    wanted: str
    measured: Mapping[str, str]
    reached: bool | None
    note: str = ""


def judge(results: Results, costs: Mapping[str, PythonCost], memory: NodeMemory) -> list[Goal]:
    """All goals. One that names no depth must be reached at each depth; one that names no lane, over each lane."""
    return [
        _to_socket(results, block_bytes=2 * MIB, wanted=0.9),
        _to_socket(results, block_bytes=64 * KIB, wanted=1.5, depth=1),
        _ratio(results, "mapped get of 2 MiB to non-temporal copy", Point("mapped", "get", 2 * MIB, 0), wanted=0.9),
        _ratio(results, "mapped put of 2 MiB to memcpy", Point("mapped", "put", 2 * MIB, 0), wanted=0.6),
        _match(results),
        _python(costs),
        _memory(memory),
    ]


def _ratio(results: Results, name: str, of: Point, *, wanted: float, depth: int = 0) -> Goal:
    """`of` names lane, verb and size; depth 0 stands for all."""
    ratios = {}
    for point in _at_each_depth(results, of, depth):
        ratio = results.figure(point).ratio
        if ratio is not None:
            ratios[point.depth] = ratio
    measured = {f"depth {at}": f"{ratio:.2f}" for at, ratio in ratios.items()}
    return Goal(name, f"at least {wanted}", measured, min(ratios.values()) >= wanted if ratios else None)


def _to_socket(results: Results, *, block_bytes: int, wanted: float, depth: int = 0) -> Goal:
    at = f", depth {depth}," if depth else ""
    of = Point("tcp", "get", block_bytes, 0)
    goal = _ratio(results, f"tcp get of {format_bytes(block_bytes)}{at} to plain socket", of, wanted=wanted, depth=depth)
    notes = []
    for socket in SOCKETS:
        ratios = [
            results.ratio(point, [bound])
            for point in _at_each_depth(results, of, depth)
            if results.has(bound := Point(socket, "get", block_bytes, point.depth))
        ]
        if ratios:
            notes.append(f"{' '.join(f'{ratio:.2f}' for ratio in ratios)} to the {socket}")
    return Goal(goal.name, goal.wanted, goal.measured, goal.reached, note="; ".join(notes))


def _at_each_depth(results: Results, of: Point, depth: int) -> Iterator[Point]:
    for point in sorted(results.points):
        same = (point.subject, point.verb, point.block_bytes) == (of.subject, of.verb, of.block_bytes)
        if same and depth in (0, point.depth):
            yield point


def _match(results: Results) -> Goal:
    points = {lane: Point(lane, "match", 0, MATCH_KEYS) for lane in LANES}
    p50_us = {lane: results.figure(point).p50_s * 1e6 for lane, point in points.items() if results.has(point)}
    measured = {lane: f"{value:.0f} µs" for lane, value in p50_us.items()}
    reached = max(p50_us.values()) <= _MATCH_US_MAX if p50_us else None
    return Goal(f"match of {MATCH_KEYS:,} keys, p50", f"at most {_MATCH_US_MAX:.0f} µs", measured, reached)


def _python(costs: Mapping[str, PythonCost]) -> Goal:
    measured = {verb: f"{cost.batch_us:.1f} µs + {cost.block_us:.2f} µs a block" for verb, cost in costs.items()}
    reached = all(cost.batch_us <= _BATCH_US_MAX and cost.block_us <= _BLOCK_US_MAX for cost in costs.values())
    wanted = f"at most {_BATCH_US_MAX:.0f} µs a batch + {_BLOCK_US_MAX} µs a block"
    return Goal("Python's own cost", wanted, measured, reached if costs else None)


def _memory(memory: NodeMemory) -> Goal:
    wanted = f"at most {format_bytes(_NODE_BYTES_MAX)} + {_NODE_BYTES_A_BLOCK_MAX} B a block"
    name = "memory of the node besides blocks"
    index = f"{memory.index_bytes / memory.blocks:.0f} B a block"
    if memory.empty_bytes is None or memory.full_bytes is None:
        return Goal(name, wanted, {"index": index}, None, note="the process cannot be looked into")
    measured = {
        "empty": format_bytes(memory.empty_bytes),
        "each block": f"{memory.block_bytes:.0f} B",
    }
    budget_bytes = _NODE_BYTES_MAX + _NODE_BYTES_A_BLOCK_MAX * memory.blocks
    note = f"{memory.blocks:,} blocks; the index as the node counts it: {index}; code and libraries included"
    return Goal(name, wanted, measured, memory.full_bytes <= budget_bytes, note)
