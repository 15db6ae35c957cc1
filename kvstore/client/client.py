"""The synchronous client."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from kvstore.client.arguments import (
    checked_owner,
    checked_timeout_ms,
    key_bytes,
    pin_ttl_ms,
    raise_if_wrong_size,
    raise_refusal,
    ttl_s_to_ms,
)
from kvstore.client.closed import Closed
from kvstore.client.results import BoolArray, Borrow, GetResult, PinResult, PutResult, present
from kvstore.client.session import Session
from kvstore.errors import ClosedError, InvalidArgumentError
from kvstore.transport import fork

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["Client"]


class Client:
    """A session with one node, made by `kvstore.connect`. Thread-safe; every call releases the GIL.

    Arguments of the verbs:

    - `keys`: C-contiguous `(n, 32)` uint8 array, a chain in order (`kvstore.Namespace` makes them);
    - `buffers`: one entry a block, each a C-contiguous buffer (buffer protocol or CPU DLPack) or a list of such pieces;
      or one C-contiguous array whose first axis has length n;
    - `first_depth`: place of the first key in its chain, where the batch is not the start of one;
    - `timeout_ms`: deadline of this call; the client's own where not given.

    Verbs raise `InvalidArgumentError` (or a subclass) for arguments of no use, and `ClosedError` after `close`.
    A node that is slow, full or lost is never an exception: `get` then answers misses, `put` says why not, the others
    answer 0 or False, all within the deadline; the session comes back by itself when the node does.
    """

    def __init__(self, session: Session, *, timeout_ms: int) -> None:
        self._session = session
        self._native: _native.Client | Closed = session.native
        self._timeout_ms = timeout_ms
        fork.watch(self)
        self._finalizer = weakref.finalize(self, session.close)

    def match(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        """How many leading keys of the chain the node holds, in one round trip."""
        try:
            return self._native.match(keys, timeout_ms=self._deadline(timeout_ms))
        except (TypeError, ValueError) as error:
            self._refused(error)

    def put(
        self,
        keys: Any,
        buffers: Any,
        *,
        ttl_s: float | None = None,
        durable: bool = False,
        first_depth: int = 0,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """Writes blocks. The first writer of a key wins; `ttl_s` (seconds) makes them expire.

        Returns when the node holds them; with `durable`, when they would survive its death (kill -9), those included
        that were there already. Status NOT_DURABLE says that the node can keep a block in memory only.

        Raises `BlockTooLargeError` for a block over `max_block_bytes`.
        """
        ttl_ms = 0 if ttl_s is None else ttl_s_to_ms(ttl_s)
        try:
            cause = self._native.put(
                keys,
                buffers,
                ttl_ms=ttl_ms,
                durable=durable,
                first_depth=first_depth,
                timeout_ms=self._deadline(timeout_ms),
            )
        except (TypeError, ValueError) as error:
            self._refused(error, buffers, first_depth=first_depth, durable=durable)
        return PutResult(cause)

    def get(
        self,
        keys: Any,
        buffers: Any,
        *,
        wait_ms: int = 0,
        first_depth: int = 0,
        timeout_ms: int | None = None,
    ) -> GetResult:
        """Reads blocks into `buffers` (writable), waiting up to `wait_ms` for blocks that are still being written.

        Nothing is written to the buffers after the call returns. Raises `BufferSizeError` when a block is stored with
        another length than its buffer has.
        """
        try:
            cause = self._native.get(
                keys, buffers, wait_ms=wait_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms)
            )
        except (TypeError, ValueError) as error:
            self._refused(error, buffers, wait_ms=wait_ms, first_depth=first_depth)
        raise_if_wrong_size(cause, keys)
        return GetResult(cause)

    def borrow(self, keys: Any, *, wait_ms: int = 0, first_depth: int = 0, timeout_ms: int | None = None) -> Borrow:
        """Blocks as read-only views, for a `with` statement: `with store.borrow(keys) as views`.

        Without a copy on the same host, in a receive buffer otherwise. A view is None where the block is a miss.
        """
        try:
            borrow = self._native.borrow(
                keys, wait_ms=wait_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms)
            )
        except (TypeError, ValueError) as error:
            self._refused(error, wait_ms=wait_ms, first_depth=first_depth)
        return Borrow(borrow)

    def exists(self, keys: Any, *, timeout_ms: int | None = None) -> BoolArray:
        """Which blocks the node holds, as a `(n,)` array; counts as no use of them."""
        try:
            return present(self._native.exists(keys, timeout_ms=self._deadline(timeout_ms)))
        except (TypeError, ValueError) as error:
            self._refused(error)

    def touch(
        self, keys: Any, *, ttl_s: float | None = None, first_depth: int = 0, timeout_ms: int | None = None
    ) -> BoolArray:
        """Counts as a use of the blocks and, with `ttl_s`, sets a new expiry. Returns which of them are there."""
        ttl_ms = None if ttl_s is None else ttl_s_to_ms(ttl_s)
        try:
            return present(
                self._native.touch(keys, ttl_ms=ttl_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms))
            )
        except (TypeError, ValueError) as error:
            self._refused(error, first_depth=first_depth)

    def delete(self, keys: Any, *, timeout_ms: int | None = None) -> BoolArray:
        """Removes blocks. Returns which of them were there."""
        try:
            return present(self._native.delete(keys, timeout_ms=self._deadline(timeout_ms)))
        except (TypeError, ValueError) as error:
            self._refused(error)

    def flush(self, *, timeout_ms: int | None = None) -> bool:
        """Makes everything durable that the node has acknowledged so far; a `put` still under way is not part of that.

        False if it is not by the deadline, and always on a node without a disk. False once, too, after the node was
        restarted: what it acknowledged before and no flush has covered may be gone, and should be put again.
        """
        try:
            return self._session.flush(self._native, self._deadline(timeout_ms))
        except ValueError as error:
            self._refused(error)

    def pin(self, keys: Any, *, owner: str, ttl_s: float, timeout_ms: int | None = None) -> PinResult:
        """Keeps blocks from eviction for `ttl_s` seconds from now; 0 ends the pins that `owner` has on them.

        `owner` is 1 to 255 UTF-8 bytes; a block stays for as long as anybody pins it, or until it is deleted or
        expires. Pins survive a restart of a node with a disk.
        """
        ttl_ms, names = pin_ttl_ms(ttl_s), key_bytes(keys)
        try:
            return PinResult(
                self._session.pin(self._native, names, checked_owner(owner), ttl_ms, self._deadline(timeout_ms))
            )
        except ValueError as error:
            self._refused(error)

    def stats(self, *, timeout_ms: int | None = None) -> dict[str, dict[str, Any] | None]:
        """`{"client": ..., "node": ...}`: what each has counted, and the lane in use.

        `node` is None when it does not answer in time.
        """
        return self._session.stats(self._native, self._deadline(timeout_ms))

    def close(self) -> None:
        """Ends the session; what is pending ends as misses. Borrowed views stay readable until released. Idempotent."""
        if not isinstance(self._native, Closed):
            self._native = Closed("close() was called")
        self._finalizer()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        self._native = Closed(fork.FORKED)
        self._session.abandon()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kvstore.Client of {self._session}>"

    def _deadline(self, timeout_ms: int | None) -> int:
        return self._timeout_ms if timeout_ms is None else checked_timeout_ms(timeout_ms)

    def _refused(self, error: Exception, buffers: Any = (), **options: Any) -> NoReturn:
        if isinstance(error, InvalidArgumentError):
            raise error
        if isinstance(self._native, Closed):  # closed by another thread since the verb began
            raise ClosedError("this client was closed during the call") from error
        raise_refusal(error, buffers, self._session.max_block_bytes, options)
