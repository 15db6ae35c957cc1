"""What the verbs answer with. Statuses are numbers of `kvstore.Status`, one a key."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvstore.client.closed import Closed
from kvstore.status import Status
from kvstore.transport import fork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore import _native

__all__ = ["BoolArray", "Borrow", "GetResult", "PinResult", "PutResult", "StatusArray", "present"]

StatusArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

_NOT_DURABLE = int(Status.NOT_DURABLE)
_OK = int(Status.OK)  # numpy compares with a plain int several times faster than with an enum

# Indexed by a native status. To a reader whatever is not the block is a miss, and it computes the block again; a writer
# whose block was there already has what it wanted.
_GET_STATUS = np.full(256, Status.MISS, dtype=np.uint8)
_GET_STATUS[Status.OK] = Status.OK
_PUT_STATUS = np.arange(256, dtype=np.uint8)
_PUT_STATUS[Status.EXISTS] = Status.OK


class _Result:
    """Outcome of a batch, one status a key. Arrays are `(n,)` uint8."""

    __slots__ = ("cause", "status")

    def __init__(self, status: StatusArray, cause: StatusArray) -> None:
        self.status = status
        self.cause = cause

    @property
    def ok(self) -> BoolArray:
        """Where the status is OK, as a `(n,)` array."""
        return present(self.status)

    @property
    def all_ok(self) -> bool:
        """Whether every key of the batch is OK."""
        return not self.status.any()

    def __repr__(self) -> str:
        values, counts = np.unique(self.cause, return_counts=True)
        inside = ", ".join(f"{_name(int(value))}: {count}" for value, count in zip(values, counts, strict=True))
        return f"{type(self).__name__}({inside})"


def present(statuses: StatusArray) -> BoolArray:
    """Where a status is OK."""
    ok: BoolArray = statuses == _OK
    return ok


class GetResult(_Result):
    """`status` is OK (the bytes are in the buffer) or MISS; `cause` says what was behind each miss (TIMEOUT, ...).

    The content of a buffer whose status is MISS is unspecified.
    """

    __slots__ = ()

    def __init__(self, cause: StatusArray) -> None:
        super().__init__(_GET_STATUS[cause], cause)


class PutResult(_Result):
    """`status` is OK when the node has done what was asked: it holds the block now, and durably if that was asked.

    Otherwise it is NOT_DURABLE, CONFLICT, BUSY, TOO_LARGE, TIMEOUT, UNAVAILABLE, ... `cause` tells blocks that were
    there already (EXISTS) from those that this call brought (OK).
    """

    __slots__ = ()

    def __init__(self, cause: StatusArray) -> None:
        super().__init__(_PUT_STATUS[cause], cause)

    @property
    def stored(self) -> BoolArray:
        """Where the node holds the block now, be it in memory alone (NOT_DURABLE), as a `(n,)` array."""
        stored: BoolArray = self.ok | (self.status == _NOT_DURABLE)
        return stored


class PinResult(_Result):
    """`status` is OK when the block is pinned, or no longer, as asked; MISS when it is not there.

    BUSY: the node's share for pins is used up (`pin_share`). NOT_DURABLE: it is pinned, but its disk cannot note that,
    so the pin ends with the node. TIMEOUT and UNAVAILABLE: the node has not said. `cause` is the same.
    """

    __slots__ = ()

    def __init__(self, cause: StatusArray) -> None:
        super().__init__(cause, cause)


class Borrow(_Result):
    """Read-only views of blocks, valid until `release` or the end of the `with` statement.

    On the same host they are the node's own memory, held by a lease; elsewhere a receive buffer.
    """

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _native.Borrow) -> None:
        cause = native.statuses
        super().__init__(_GET_STATUS[cause], cause)
        self._native: _native.Borrow | Closed = native
        fork.watch(self)

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        fork.keep_forever(self._native)
        self._native = Closed(fork.FORKED)

    @property
    def views(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """One read-only array of bytes a key, None where the status is MISS."""
        return self._native.views

    def release(self) -> None:
        """Gives the blocks back. Views that are kept stay readable, but what they show may change. Idempotent."""
        if not isinstance(self._native, Closed):
            self._native.release()
            self._native = Closed("this borrow was released")

    def __enter__(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        return self.views

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _name(value: int) -> str:
    known = {status.value: status.name for status in Status}
    return known.get(value, str(value))
