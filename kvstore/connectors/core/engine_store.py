"""The store as an engine's loop uses it: submit, poll, never wait, never fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from kvstore.client import Completion, GetResult, PolledClient, PutResult, connect_polled
from kvstore.client.results import BoolArray
from kvstore.config import ClientConfig, ConnectorConfig
from kvstore.connectors.core.breaker import Breaker
from kvstore.connectors.core.cost_gate import CostGate
from kvstore.connectors.core.quiet_log import QuietLog
from kvstore.connectors.core.statistics import Statistics
from kvstore.errors import KVStoreError
from kvstore.status import Status

__all__ = ["Done", "EngineStore"]

_LOGGER = logging.getLogger("kvstore.connectors")

_PINNED_OR_THERE = [int(status) for status in (Status.OK, Status.NOT_DURABLE, Status.BUSY)]

Kind = Literal["lookup", "exists", "load", "save", "delete"]


class Done(NamedTuple):
    """The end of a submission.

    `ok`: `(n,)` bools, one a key: whether the store has the block (exists, save), it is in its buffer now (load), or it
    was there to be removed (delete); for a lookup the leading keys that are there. `seconds` from submission to here.
    """

    ticket: int
    kind: Kind
    ok: np.ndarray[Any, np.dtype[np.bool_]]
    seconds: float

    @property
    def leading(self) -> int:
        """How many blocks are good before the first that is not."""
        return len(self.ok) if self.ok.all() else int(np.argmin(self.ok))


@dataclass(frozen=True, slots=True)
class _Pending:
    kind: Kind
    blocks: int
    nbytes: int
    started_s: float
    timeout_ms: int


class EngineStore:
    """Lookups, loads and saves of one engine process. Thread-safe; `poll` gives each completion to one caller.

    Nothing raises after construction: what goes wrong is a miss, or a block not saved, counted in `stats` and logged
    once a minute. Every submission ends within its timeout of the settings. A store that has let requests time out is
    left alone for a while (see `Breaker`): lookups then say at once that nothing is there.

    Buffers of a load may be written to, and those of a save must stay as they are, until the completion was polled.

    Raises `ConfigError` or `InvalidArgumentError` for an endpoint of no use; a node that is away is looked for until it
    is there.
    """

    def __init__(self, config: ConnectorConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.gate = CostGate(enabled=config.cost_gate)
        self.log = QuietLog(_LOGGER)
        self._clock = clock
        self._breaker = Breaker(clock)
        self._statistics = Statistics()
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._ended: list[Done] = []
        self._local_tickets = 0
        self._timeouts_seen = 0
        self._closed = False
        settings = ClientConfig.load(overrides={"lane": config.lane})
        self._client: PolledClient = connect_polled(config.endpoint, config=settings, may_be_away=True)

    @property
    def connected(self) -> bool:
        """Whether there is a node now."""
        return not self._closed and self._client.connected

    @property
    def lane(self) -> str:
        """How bytes travel; "" before the node was first reached."""
        return self._client.lane

    def fileno(self) -> int:
        """Readable when `poll` has completions of the node; those that ended here are there at once."""
        return self._client.fileno()

    @property
    def saving_bytes(self) -> int:
        """Bytes of saves that are under way."""
        with self._lock:
            return self._saving_bytes()

    def lookup(self, keys: Any) -> int:
        """Asks how many leading blocks of a chain are there."""
        timeout_ms = self.config.lookup_timeout_ms
        return self._submit("lookup", keys, 0, timeout_ms, lambda: self._client.match(keys, timeout_ms=timeout_ms))

    def exists(self, keys: Any) -> int:
        """Asks which blocks are there."""
        timeout_ms = self.config.lookup_timeout_ms
        return self._submit("exists", keys, 0, timeout_ms, lambda: self._client.exists(keys, timeout_ms=timeout_ms))

    def load(self, keys: Any, buffers: Any, *, nbytes: int, first_depth: int = 0) -> int:
        """Reads blocks into `buffers`, `nbytes` altogether; see `kvstore.Client` for both."""
        timeout_ms = self.config.load_timeout_ms
        return self._submit(
            "load",
            keys,
            nbytes,
            timeout_ms,
            lambda: self._client.get(keys, buffers, first_depth=first_depth, timeout_ms=timeout_ms),
        )

    def save(self, keys: Any, buffers: Any, *, nbytes: int, first_depth: int = 0) -> int | None:
        """Writes blocks. None where they are dropped: the node is away, or too much is on its way already."""
        ttl_s = self.config.ttl_ms / 1000 if self.config.ttl_ms else None
        timeout_ms = self.config.save_timeout_ms
        busy = self.saving_bytes
        full = busy > 0 and busy + nbytes > self.config.save_bytes
        if full or not self.connected or self._breaker.is_open:
            self.drop_save(len(keys))
            if full:
                self.log.warning("saves are dropped: %d bytes are on their way to the node already", busy)
            return None
        return self._submit(
            "save",
            keys,
            nbytes,
            timeout_ms,
            lambda: self._client.put(keys, buffers, ttl_s=ttl_s, first_depth=first_depth, timeout_ms=timeout_ms),
        )

    def drop_save(self, blocks: int) -> None:
        """Counts a save of so many blocks that there was no room even to begin."""
        self._statistics.count(saves_dropped=1, save_dropped_blocks=blocks)

    def delete(self, keys: Any) -> int:
        """Removes blocks; for engines that decide themselves what is no longer worth keeping."""
        timeout_ms = self.config.lookup_timeout_ms
        return self._submit("delete", keys, 0, timeout_ms, lambda: self._client.delete(keys, timeout_ms=timeout_ms))

    def pin(self, keys: Any, *, owner: str, ttl_s: float) -> BoolArray:
        """Keeps blocks from eviction for `owner` and so many seconds, 0 ends that; which of them are there.

        Waits for the node, up to the lookup timeout: for threads of a connector's own. Blocks beyond what pins may hold
        together (the node's `pin_share`) are only as safe as all others.
        """
        started_s = self._clock()
        if not len(keys) or self._closed or self._breaker.refuses():
            return np.zeros(len(keys), np.bool_)
        try:
            result = self._client.pin(keys, owner=owner, ttl_s=ttl_s, timeout_ms=self.config.lookup_timeout_ms)
        except (KVStoreError, ValueError) as error:
            self.log.warning("blocks cannot be pinned: %s", error)
            self._statistics.count(errors=1)
            return np.zeros(len(keys), np.bool_)
        seconds = self._clock() - started_s
        there: BoolArray = np.isin(result.cause, _PINNED_OR_THERE)
        self._breaker.note(timed_out=not there.any() and seconds * 1000 >= self.config.lookup_timeout_ms)
        if ttl_s > 0:
            self._statistics.submitted("lookup", len(keys))
            self._statistics.ended("lookup", int(there.sum()), 0, seconds)
        return there

    def poll(self, wait_ms: int = 0) -> list[Done]:
        """What has ended since the last call, each once; waits up to `wait_ms` for the first where nothing has."""
        with self._lock:
            ended, self._ended = self._ended, []
        if self._closed:
            return ended
        try:
            completions = self._client.poll(0 if ended else wait_ms)
        except KVStoreError:  # closed meanwhile
            return ended
        return ended + [done for done in map(self._end, completions) if done is not None]

    def wait(self, tickets: Collection[int], timeout_ms: int) -> list[Done]:
        """Polls until these tickets have ended, or the time is over; returns everything that ended meanwhile."""
        until_s = self._clock() + timeout_ms / 1000
        waiting, ended = set(tickets), []
        while True:
            left_ms = int((until_s - self._clock()) * 1000)
            some = self.poll(max(0, left_ms) if waiting else 0)
            ended += some
            waiting.difference_update(done.ticket for done in some)
            if not waiting or left_ms <= 0 or self._closed:
                return ended

    def stats(self) -> dict[str, int | float]:
        """Everything counted since the start: names in docs/connectors/README.md."""
        with self._lock:
            now = {"pending": len(self._pending), "saving_bytes": self._saving_bytes()}
        gate = {"gate_taken": self.gate.taken, "gate_skipped": self.gate.skipped}
        state = {"connected": int(self.connected), "pauses": self._breaker.openings}
        return {**self._statistics.values(), **gate, **now, **state}

    def close(self) -> None:
        """Ends the session; what is under way ends as not done, and its buffers are left alone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._client.close()
        with self._lock:
            pending, self._pending = self._pending, {}
            self._ended += [
                Done(ticket, one.kind, np.zeros(one.blocks, np.bool_), self._clock() - one.started_s)
                for ticket, one in pending.items()
            ]

    def _saving_bytes(self) -> int:
        return sum(one.nbytes for one in self._pending.values() if one.kind == "save")

    def _submit(self, kind: Kind, keys: Any, nbytes: int, timeout_ms: int, submit: Callable[[], int]) -> int:
        blocks = len(keys)
        self._statistics.submitted(kind, blocks)
        pending = _Pending(kind, blocks, nbytes, self._clock(), timeout_ms)
        if blocks and not self._closed and not self._breaker.refuses():
            try:
                # With the lock: whoever polls the completion finds what it belongs to.
                with self._lock:
                    ticket = submit()
                    self._pending[ticket] = pending
                return ticket
            except (KVStoreError, TypeError, ValueError, BufferError) as error:
                self.log.warning("a %s cannot be submitted: %s", kind, error)
                self._statistics.count(errors=1)
        with self._lock:
            self._local_tickets -= 1
            done = Done(self._local_tickets, kind, np.zeros(blocks, np.bool_), 0.0)
            self._ended.append(done)
        return done.ticket

    def _end(self, completion: Completion) -> Done | None:
        with self._lock:
            pending = self._pending.pop(completion.ticket, None)
        if pending is None:
            return None
        seconds = self._clock() - pending.started_s
        ok, timed_out = _outcome(completion.result, pending.blocks)
        if pending.kind in {"load", "save"} or ok.any() or seconds * 1000 < pending.timeout_ms:
            self._breaker.note(timed_out=timed_out)
        elif self._have_timeouts_grown():
            self._breaker.note(timed_out=True)
        done = Done(completion.ticket, pending.kind, ok, seconds)
        self._count(pending, done, completion.result)
        return done

    def _have_timeouts_grown(self) -> bool:
        """Whether the node has let anything time out since this was last asked; else a loop only polled late."""
        timeouts = self._client.timeouts
        with self._lock:
            before, self._timeouts_seen = self._timeouts_seen, timeouts
        return timeouts > before

    def _count(self, pending: _Pending, done: Done, result: Any) -> None:
        good = int(done.ok.sum())
        self._statistics.ended(pending.kind, good, pending.nbytes, done.seconds)
        if pending.kind == "load" and good == pending.blocks:
            self.gate.note_load(pending.nbytes, done.seconds)
        if isinstance(result, GetResult | PutResult) and good < pending.blocks:
            causes = ", ".join(sorted({Status(int(value)).name for value in result.cause[~done.ok]}))
            if pending.kind == "load":
                self.log.warning("%d of %d blocks were not loaded (%s)", pending.blocks - good, pending.blocks, causes)
            else:
                self.log.warning("%d of %d blocks were not saved (%s)", pending.blocks - good, pending.blocks, causes)


def _outcome(result: Any, blocks: int) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], bool]:
    """Which blocks are good, and whether the node did not answer, as far as the result tells."""
    if isinstance(result, GetResult):
        return result.ok, bool((result.cause == int(Status.TIMEOUT)).all())
    if isinstance(result, PutResult):
        # Two engines that computed a prefix in different parts differ in its last bits: the first one's serves both.
        conflict = result.status == int(Status.CONFLICT)
        return result.stored | conflict, bool((result.cause == int(Status.TIMEOUT)).all())
    if isinstance(result, int):
        return np.arange(blocks) < result, False
    return result, False
