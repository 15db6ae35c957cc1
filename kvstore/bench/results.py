"""From rounds to figures. Nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from kvstore.bench.bounds import COPY_DEPTH, SOCKETS
from kvstore.bench.measurement import Point, Summary
from kvstore.bench.rounds import Round

__all__ = ["BOUNDS", "Figure", "Results", "bounds_of"]

BOUNDS: Final[Mapping[tuple[str, str], Sequence[str]]] = MappingProxyType(
    {
        ("tcp", "get"): tuple(SOCKETS),
        ("tcp", "put"): tuple(SOCKETS),
        ("shm", "get"): ("memcpy",),
        ("shm", "put"): ("memcpy",),
        ("mapped", "get"): ("streaming",),
        ("mapped", "put"): ("memcpy",),
    }
)
"""What each lane is compared with, by lane and verb: of several bounds with the faster one in each round."""

# Fewer quiet rounds than this are too few to leave the noisy ones out.
_QUIET_ROUNDS_MIN: Final = 3


@dataclass(frozen=True)
class Figure:
    """One point over all rounds that count. `rounds` is how many, `noisy` whether noisy ones are among them."""

    point: Point
    p50_s: float
    ratio: float | None
    rounds: int
    noisy: bool

    @property
    def bytes_a_second(self) -> float:
        return self.point.batch_bytes / self.p50_s


def bounds_of(point: Point) -> Sequence[Point]:
    """The points that `point` is compared with."""
    subjects = BOUNDS.get((point.subject, point.verb), ())
    return [
        Point(subject, point.verb, point.block_bytes, point.depth)
        if subject in SOCKETS
        else Point(subject, "copy", point.block_bytes, COPY_DEPTH)
        for subject in subjects
    ]


class Results:
    """Medians over rounds. Quiet rounds alone count, unless there are too few of them."""

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.rounds = rounds
        self._by_point: dict[Point, list[Round]] = {}
        for one in rounds:
            for point in one.measured:
                self._by_point.setdefault(point, []).append(one)
        self._by_point = {point: _that_count(those) for point, those in self._by_point.items()}

    @property
    def points(self) -> Sequence[Point]:
        return list(self._by_point)

    def has(self, point: Point) -> bool:
        return point in self._by_point

    def figure(self, point: Point) -> Figure:
        """Raises `KeyError` for a point that was not measured."""
        rounds = self._by_point[point]
        return Figure(
            point,
            p50_s=statistics.median(one.measured[point].p50_s for one in rounds),
            ratio=self.ratio(point, [bound for bound in bounds_of(point) if self.has(bound)]),
            rounds=len(rounds),
            noisy=any(one.is_noisy for one in rounds),
        )

    def ratio(self, point: Point, bounds: Sequence[Point]) -> float | None:
        """Throughput of `point` over that of the fastest of `bounds`, as the median of each round's ratio."""
        if not bounds:
            return None
        return self.median(
            point,
            lambda measured: _rate(measured, point) / max(_rate(measured, bound) for bound in bounds),
        )

    def median(self, point: Point, value: Callable[[Mapping[Point, Summary]], float]) -> float:
        """The median of `value` over the rounds that count for `point`."""
        return statistics.median(value(one.measured) for one in self._by_point[point])


def _rate(measured: Mapping[Point, Summary], point: Point) -> float:
    return point.batch_bytes / measured[point].p50_s


def _that_count(rounds: Sequence[Round]) -> list[Round]:
    quiet = [one for one in rounds if not one.is_noisy]
    return quiet if len(quiet) >= min(_QUIET_ROUNDS_MIN, len(rounds)) else list(rounds)
