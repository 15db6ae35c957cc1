"""The client of a loop that may neither wait nor fail, as an engine's scheduler is: submit now, poll later."""

from __future__ import annotations

import select
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from kvstore.client.arguments import (
    checked_owner,
    checked_timeout_ms,
    key_bytes,
    pin_ttl_ms,
    raise_refusal,
    ttl_s_to_ms,
)
from kvstore.client.closed import Closed
from kvstore.client.results import BoolArray, GetResult, PinResult, PutResult, present
from kvstore.client.session import Session
from kvstore.errors import ClosedError, InvalidArgumentError
from kvstore.transport import fork

__all__ = ["Completion", "PolledClient"]


class Completion(NamedTuple):
    """The end of a submission: a number for `match`, `(n,)` bools for `exists`, `touch` and `delete`, or a result."""

    ticket: int
    result: int | BoolArray | GetResult | PutResult


class PolledClient:
    """A session with one node whose verbs return a ticket at once, made by `kvstore.connect_polled`. Thread-safe.

    The verbs and their arguments are those of `Client`. The result of each comes out of `poll` once, at most a moment
    after its deadline, whatever happens to the node. Until then the buffers of a `get` may be written to and those of a
    `put` must stay as they are. `fileno()` becomes readable when there is something to poll, so a client fits into
    `select` and every event loop.

    Verbs raise `InvalidArgumentError` (or a subclass) for arguments of no use, and `ClosedError` after `close`. A block
    of another length than its buffer is a miss with the cause WRONG_SIZE.
    """

    def __init__(self, session: Session, *, timeout_ms: int) -> None:
        self._session = session
        self._native: Any = session.native
        self._descriptor = session.native.completion_fd
        self._timeout_ms = timeout_ms
        # Held from a submission until what its result is is noted, so that `poll` finds that.
        self._lock = threading.Lock()
        self._results: dict[int, Callable[[Any], Any]] = {}
        fork.watch(self)
        self._finalizer = weakref.finalize(self, session.close)

    @property
    def connected(self) -> bool:
        """Whether there is a node behind it now. Without one, submissions end at once as UNAVAILABLE."""
        native = self._native
        return not isinstance(native, Closed) and bool(native.attached)

    @property
    def lane(self) -> str:
        """How bytes travel: "mapped", "shm", "rdma", "tcp"; "" before the node was first reached."""
        return self._session.lane

    @property
    def timeouts(self) -> int:
        """For how many blocks the node has not answered in time so far, which `match` and `exists` do not tell."""
        native = self._native
        return 0 if isinstance(native, Closed) else int(native.stats()["timeouts"])

    @property
    def pending(self) -> int:
        """Submissions that `poll` has not returned yet."""
        return len(self._results)

    def fileno(self) -> int:
        """Readable when `poll` has something to return."""
        return self._descriptor

    def match(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        """How many leading keys of the chain the node holds."""
        return self._submit(int, "submit_match", keys, timeout_ms=timeout_ms)

    def exists(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        """Which blocks the node holds; counts as no use of them."""
        return self._submit(present, "submit_exists", keys, timeout_ms=timeout_ms)

    def get(
        self, keys: Any, buffers: Any, *, wait_ms: int = 0, first_depth: int = 0, timeout_ms: int | None = None
    ) -> int:
        """Reads blocks into `buffers`: a `GetResult`."""
        return self._submit(
            GetResult, "submit_get", keys, buffers, wait_ms=wait_ms, first_depth=first_depth, timeout_ms=timeout_ms
        )

    def put(
        self,
        keys: Any,
        buffers: Any,
        *,
        ttl_s: float | None = None,
        durable: bool = False,
        first_depth: int = 0,
        timeout_ms: int | None = None,
    ) -> int:
        """Writes blocks: a `PutResult`."""
        ttl_ms = 0 if ttl_s is None else ttl_s_to_ms(ttl_s)
        return self._submit(
            PutResult,
            "submit_put",
            keys,
            buffers,
            ttl_ms=ttl_ms,
            durable=durable,
            first_depth=first_depth,
            timeout_ms=timeout_ms,
        )

    def touch(
        self, keys: Any, *, ttl_s: float | None = None, first_depth: int = 0, timeout_ms: int | None = None
    ) -> int:
        """Counts as a use of the blocks: which of them are there."""
        ttl_ms = None if ttl_s is None else ttl_s_to_ms(ttl_s)
        return self._submit(
            present, "submit_touch", keys, ttl_ms=ttl_ms, first_depth=first_depth, timeout_ms=timeout_ms
        )

    def delete(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        """Removes blocks: which of them were there."""
        return self._submit(present, "submit_delete", keys, timeout_ms=timeout_ms)

    def pin(self, keys: Any, *, owner: str, ttl_s: float, timeout_ms: int | None = None) -> PinResult:
        """See `Client.pin`; waits for the node."""
        ttl_ms, names = pin_ttl_ms(ttl_s), key_bytes(keys)
        deadline_ms = self._deadline(timeout_ms)
        return PinResult(self._session.pin(self._native, names, checked_owner(owner), ttl_ms, deadline_ms))

    def poll(self, wait_ms: int = 0) -> list[Completion]:
        """What has ended since the last call, each once; waits up to `wait_ms` for the first where nothing has."""
        ended = self._native.drain()
        if not ended and wait_ms > 0:
            readable = select.poll()  # select() knows no descriptors over 1,023, and engines have many
            readable.register(self._descriptor, select.POLLIN)
            readable.poll(wait_ms)
            ended = self._native.drain()
        with self._lock:
            results = [self._results.pop(ticket, None) for ticket, _ in ended]
        # What another thread closed meanwhile has no result any more.
        return [Completion(ticket, make(raw)) for (ticket, raw), make in zip(ended, results, strict=True) if make]

    def stats(self, *, timeout_ms: int | None = None) -> dict[str, dict[str, Any] | None]:
        """See `Client.stats`; waits for the node."""
        return self._session.stats(self._native, self._deadline(timeout_ms))

    def close(self) -> None:
        """Ends the session; what is under way has no result any more. Idempotent."""
        if self._finalizer.detach() is None:
            return
        self._native = Closed("close() was called")
        self._session.close()
        with self._lock:
            self._results.clear()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        self._native = Closed(fork.FORKED)
        self._finalizer.detach()
        self._session.abandon()

    def __enter__(self) -> PolledClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kvstore.PolledClient of {self._session}>"

    def _submit(
        self,
        result: Callable[[Any], Any],
        verb: str,
        keys: Any,
        *buffers: Any,
        timeout_ms: int | None,
        **options: Any,
    ) -> int:
        deadline_ms = self._deadline(timeout_ms)
        try:
            with self._lock:
                ticket: int = getattr(self._native, verb)(keys, *buffers, timeout_ms=deadline_ms, **options)
                self._results[ticket] = result
            return ticket
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidArgumentError):
                raise
            if isinstance(self._native, Closed):
                raise ClosedError("this client was closed during the call") from error
            options.pop("ttl_ms", None)  # it was checked in seconds
            raise_refusal(error, buffers[0] if buffers else (), self._session.max_block_bytes, options)

    def _deadline(self, timeout_ms: int | None) -> int:
        return self._timeout_ms if timeout_ms is None else checked_timeout_ms(timeout_ms)
