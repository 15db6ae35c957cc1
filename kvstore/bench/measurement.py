"""What is measured at one point, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Point", "Probe", "Seconds", "Summary", "repeat"]

Seconds = npt.NDArray[np.float64]
Result = TypeVar("Result")

_BATCHES_MIN: Final = 3


@dataclass(frozen=True, order=True)
class Point:
    """One thing measured: `verb` by `subject` (a lane or a bound) in batches of `depth` blocks of `block_bytes`."""

    subject: str
    verb: str
    block_bytes: int
    depth: int

    @property
    def batch_bytes(self) -> int:
        """The bytes that one batch moves."""
        return self.block_bytes * self.depth


@dataclass(frozen=True)
class Summary:
    """Seconds of one batch of a point, as percentiles over the batches of one round."""

    p10_s: float
    p50_s: float
    p90_s: float
    batches: int

    @classmethod
    def of(cls, seconds: Seconds) -> Summary:
        p10_s, p50_s, p90_s = (float(value) for value in np.percentile(seconds, (10, 50, 90)))
        return cls(p10_s, p50_s, p90_s, len(seconds))


class Probe(Protocol):
    """Measures one point."""

    @property
    def point(self) -> Point: ...

    def measure(self, budget_ms: int) -> Seconds:
        """Seconds of each batch, for about `budget_ms`. Raises `KVStoreError` if a batch is not done in full."""


def repeat(budget_ms: int, prepare: Callable[[], Callable[[], Result]], check: Callable[[Result], None]) -> Seconds:
    """Times what `prepare` returns, again and again until the budget is used; neither it nor `check` is timed.

    The first batch, which may have to wake a sleeping node, is not counted.
    """
    clock = time.perf_counter_ns
    check(prepare()())
    nanoseconds: list[int] = []
    end_ns = clock() + budget_ms * 1_000_000
    while clock() < end_ns or len(nanoseconds) < _BATCHES_MIN:
        batch = prepare()
        before_ns = clock()
        result = batch()
        nanoseconds.append(clock() - before_ns)
        check(result)
    return np.array(nanoseconds, dtype=np.float64) * 1e-9
