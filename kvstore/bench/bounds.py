"""Measuring what the machine can do without the store, in native code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from kvstore.bench.measurement import Point, Probe, Seconds
from kvstore.bench.working_set import WorkingSet
from kvstore.transport import native

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["COPY_DEPTH", "SOCKETS", "bound_probes", "make_bounds"]

SOCKETS: Final[Mapping[str, str]] = MappingProxyType(
    {"socket": "placed by the kernel", "socket_apart": "a core for each thread"}
)
"""The plain socket pair: which is the faster way to place its two threads depends on the load, so both are measured."""

COPY_DEPTH: Final = 8
"""Blocks that are copied between two looks at the clock: a copy alone has no depth."""


def make_bounds(working_set: WorkingSet) -> _native.Bounds:
    """The bounds, with the memory of `working_set`, which they keep alive."""
    return native().Bounds(working_set.source, working_set.target)


@dataclass(frozen=True)
class _CopyProbe:
    bounds: _native.Bounds
    kind: str
    block_bytes: int

    @property
    def point(self) -> Point:
        return Point(self.kind, "copy", self.block_bytes, COPY_DEPTH)

    def measure(self, budget_ms: int) -> Seconds:
        return np.array(self.bounds.copy(self.kind, self.block_bytes, COPY_DEPTH, budget_ms))


@dataclass(frozen=True)
class _SocketProbe:
    bounds: _native.Bounds
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


def bound_probes(bounds: _native.Bounds, block_bytes: int, depths: Sequence[int]) -> Iterator[Probe]:
    """All bounds for blocks of one size."""
    for kind in ("memcpy", "streaming"):
        yield _CopyProbe(bounds, kind, block_bytes)
    for subject in SOCKETS if len(os.sched_getaffinity(0)) > 1 else ("socket",):
        for verb in ("get", "put"):
            for depth in depths:
                yield _SocketProbe(bounds, subject, verb, block_bytes, depth)
