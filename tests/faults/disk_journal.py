"""What a disk may hold after a crash, as far as writers were told: the oracle of the crash tests."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

import kvstore
from kvstore import Status
from tests.support.blocks import Bytes, assert_same, block, chain

__all__ = ["GONE", "OWNER", "Journal", "Record"]

GONE = -1  # beside the versions of a block, which count from 0
OWNER = "crash test"
KEPT_BYTES_MAX = 48 << 20
# A clock of another process, and a busy machine, between a put and what the node says of its expiry.
_EXPIRY_GRACE_S = 2.0
_TOLD = frozenset({Status.OK, Status.EXISTS})


@dataclasses.dataclass
class Record:
    """One chain. `possible[i]` is what a crash may leave of block i: versions of its bytes, or GONE."""

    name: str
    count: int
    size: int
    ttl_s: float | None = None
    version: int = 0
    pinned: bool = False
    uncertain: bool = False  # a call about it was cut off: nothing is done with it before the next look
    keys: Bytes = dataclasses.field(init=False)
    possible: list[set[int]] = dataclasses.field(init=False)
    expires_s: tuple[float, float] = (float("inf"), float("inf"))  # not before, and not after

    def __post_init__(self) -> None:
        self.keys = chain(self.name, self.count)
        self.possible = [{GONE} for _ in range(self.count)]

    @property
    def contents(self) -> list[Bytes]:
        return [block(key, self.size, self.version) for key in self.keys]

    def put(self, store: kvstore.Client, *, durable: bool, evictable: bool) -> bool:
        """Puts the current version; True when every block was accepted."""
        started_s = time.monotonic()
        for possible in self.possible:
            possible.add(self.version)
        result = store.put(self.keys, self.contents, durable=durable, ttl_s=self.ttl_s)
        if self.ttl_s is not None:
            self.expires_s = (started_s + self.ttl_s, time.monotonic() + self.ttl_s)
        for possible, cause in zip(self.possible, result.cause.tolist(), strict=True):
            assert cause not in {Status.CONFLICT, Status.CORRUPT}, f"{self.name}: {result}"
            # One that expired on its way will never be, nor one that was there and was evicted meanwhile.
            assert cause != Status.NOT_DURABLE or self.ttl_s is not None or evictable, f"{self.name}: {result}"
            if durable and cause in _TOLD:
                possible.intersection_update({self.version})
        told = all(cause in _TOLD for cause in result.cause.tolist())
        self.uncertain |= not told
        return told

    def delete(self, store: kvstore.Client) -> None:
        for possible in self.possible:
            possible.add(GONE)
        self.pinned = False
        store.delete(self.keys)
        self.uncertain |= not store.stats()["client"]["connected"]

    def pin(self, store: kvstore.Client) -> None:
        self.pinned = store.pin(self.keys, owner=OWNER, ttl_s=600).all_ok

    def settle(self, version: int) -> None:
        """A flush has made sure of it."""
        for possible in self.possible:
            possible.intersection_update({version})

    def look(self, store: kvstore.Client, *, evictable: bool) -> int:
        """Compares what the node has with what it may have, and takes that as known; returns how many are there."""
        buffers = np.full((self.count, self.size), 0xEE, np.uint8)
        asked_s = time.monotonic()
        causes = store.get(self.keys, buffers).cause.tolist()
        answered_s = time.monotonic()
        for at, cause in enumerate(causes):
            assert cause in {Status.OK, Status.MISS}, f"{self.name}, block {at}: {Status(cause)!r}"
            found = self._version_of(at, buffers[at]) if cause == Status.OK else GONE
            possible = set(self.possible[at])
            if (evictable and not self.pinned) or answered_s > self.expires_s[0]:
                possible.add(GONE)
            if asked_s > self.expires_s[1] + _EXPIRY_GRACE_S:
                possible = {GONE}
            assert found in possible, f"{self.name}, block {at} of {self.count}: {found} instead of {possible}"
            self.possible[at] = {found}
        self.uncertain = False
        return sum(cause == Status.OK for cause in causes)

    def _version_of(self, at: int, found: Bytes) -> int:
        versions = sorted(version for version in range(self.version + 1))
        for version in versions:
            if np.array_equal(found, block(self.keys[at], self.size, version)):
                return version
        assert_same(found, block(self.keys[at], self.size, self.version), f"{self.name}, block {at}")
        raise AssertionError


class Journal:
    """All chains of all writers. Each writer changes its own, and appends to `records`."""

    def __init__(self, *, evictable: bool) -> None:
        self.evictable = evictable  # whether the disk is too small for everything
        self.records: list[Record] = []

    def check(self, store: kvstore.Client) -> list[int]:
        """Looks at everything, as `Record.look`; returns the lengths of the blocks that are there."""
        lengths: list[int] = []
        for record in self.records:
            lengths += [record.size] * record.look(store, evictable=self.evictable)
        return lengths

    def tidy(self, store: kvstore.Client) -> None:
        """Deletes what may end by itself, and the oldest of the rest, so that a roomy disk stays so, and drops both.

        Ends with a flush: no crash brings them back.
        """
        left_bytes = KEPT_BYTES_MAX
        kept = []
        for record in reversed(self.records):
            left_bytes -= record.count * record.size
            is_there = any(GONE not in possible for possible in record.possible)
            if is_there and record.ttl_s is None and left_bytes >= 0:
                kept.append(record)
            else:
                record.delete(store)
        self.records = kept[::-1]
        # The first one answers for what the client was told before the crash.
        assert store.flush() or store.flush()
