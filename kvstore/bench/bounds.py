"""Measuring what the machine can do without the store, in native code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, cast

import numpy as np

from kvstore.bench.measurement import Point, Probe, Seconds
from kvstore.bench.working_set import WorkingSet
from kvstore.transport import native

__all__ = ["COPY_DEPTH", "SOCKETS", "Bounds", "bound_probes", "make_bounds"]

SOCKETS: Final[Mapping[str, str]] = MappingProxyType(
    {"socket": "placed by the kernel", "socket_apart": "a core for each thread"}
)
"""The plain socket pair: which is the faster way to place its two threads depends on the load, so both are measured."""

COPY_DEPTH: Final = 8
"""Blocks that are copied between two looks at the clock: a copy alone has no depth."""


class Bounds(Protocol):
    """The native bounds (native/src/bench/bounds.h). Methods return the seconds of each batch and release the GIL."""

    def copy(self, kind: str, block_bytes: int, depth: int, budget_ms: int) -> list[float]:
        """Copies within the working set; `kind` is "memcpy" or "streaming"."""

    def socket(self, verb: str, block_bytes: int, depth: int, budget_ms: int, *, apart: bool) -> list[float]:
        """Moves blocks over a TCP connection on loopback; `verb` is "get" or "put".

        `apart` gives each of the two threads a core. Raises `OSError` if the connection fails or does not move.
        """


def make_bounds(working_set: WorkingSet) -> Bounds:
    """The bounds, with the memory of `working_set`, which they keep alive."""
    return cast(Bounds, cast(Any, native()).Bounds(working_set.source, working_set.target))


@dataclass(frozen=True)
class _CopyProbe:
    bounds: Bounds
    kind: str
    block_bytes: int

    @property
    def point(self) -> Point:
        return Point(self.kind, "copy", self.block_bytes, COPY_DEPTH)

    def measure(self, budget_ms: int) -> Seconds:
        return np.array(self.bounds.copy(self.kind, self.block_bytes, COPY_DEPTH, budget_ms))


@dataclass(frozen=True)
class _SocketProbe:
    bounds: Bounds
    subject: str
    verb: str
    block_bytes: int
    depth: int

    @property
    def point(self) -> Point:
        return Point(self.subject, self.verb, self.block_bytes, self.depth)

    def measure(self, budget_ms: int) -> Seconds:
        apart = self.subject == "socket_apart"
        return np.array(self.bounds.socket(self.verb, self.block_bytes, self.depth, budget_ms, apart=apart))


def bound_probes(bounds: Bounds, block_bytes: int, depths: Sequence[int]) -> Iterator[Probe]:
    """All bounds for blocks of one size."""
    for kind in ("memcpy", "streaming"):
        yield _CopyProbe(bounds, kind, block_bytes)
    for subject in SOCKETS if len(os.sched_getaffinity(0)) > 1 else ("socket",):
        for verb in ("get", "put"):
            for depth in depths:
                yield _SocketProbe(bounds, subject, verb, block_bytes, depth)
