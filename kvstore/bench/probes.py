"""Measuring the store, from Python, as an engine calls it: `put`, `get` and `match` over one lane."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from kvstore.bench.measurement import Point, Seconds, repeat
from kvstore.bench.working_set import Keys, PutRing, StoredSet
from kvstore.client import Client, GetResult, PutResult
from kvstore.errors import KVStoreError

__all__ = ["GetProbe", "MatchProbe", "PutProbe"]


@dataclass(frozen=True)
class GetProbe:
    """Reads `depth` blocks in one call, each into memory of its own."""

    lane: str
    client: Client
    stored: StoredSet
    depth: int

    @property
    def point(self) -> Point:
        return Point(self.lane, "get", self.stored.block_bytes, self.depth)

    def measure(self, budget_ms: int) -> Seconds:
        return repeat(budget_ms, self._prepare, self._check)

    def _prepare(self) -> Callable[[], GetResult]:
        return functools.partial(self.client.get, *self.stored.take(self.depth))

    def _check(self, result: GetResult) -> None:
        _check_all_ok(self.point, result)


@dataclass(frozen=True)
class PutProbe:
    """Writes `depth` new blocks in one call, each from memory of its own."""

    lane: str
    client: Client
    ring: PutRing
    block_bytes: int
    depth: int

    @property
    def point(self) -> Point:
        return Point(self.lane, "put", self.block_bytes, self.depth)

    def measure(self, budget_ms: int) -> Seconds:
        return repeat(budget_ms, self._prepare, self._check)

    def _prepare(self) -> Callable[[], PutResult]:
        return functools.partial(self.client.put, *self.ring.take(self.client, self.block_bytes, self.depth))

    def _check(self, result: PutResult) -> None:
        _check_all_ok(self.point, result)


@dataclass(frozen=True)
class MatchProbe:
    """Asks how many of `keys` the node holds; it holds all."""

    lane: str
    client: Client
    keys: Keys

    @property
    def point(self) -> Point:
        return Point(self.lane, "match", 0, len(self.keys))

    def measure(self, budget_ms: int) -> Seconds:
        return repeat(budget_ms, lambda: functools.partial(self.client.match, self.keys), self._check)

    def _check(self, matched: int) -> None:
        if matched != len(self.keys):
            raise KVStoreError(f"match over {self.lane} found {matched} of {len(self.keys)} blocks")


def _check_all_ok(point: Point, result: GetResult | PutResult) -> None:
    # Not a miss here: a figure that leaves out the batches that failed would flatter.
    if not result.all_ok:
        raise KVStoreError(f"{point.verb} over {point.subject} was not done in full while measuring: {result!r}")
