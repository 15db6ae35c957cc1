"""Between what callers write and what the native core takes. Nothing here runs once per block unless a call failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from kvstore.client.results import StatusArray
from kvstore.errors import BlockTooLargeError, BufferSizeError, InvalidArgumentError
from kvstore.keys import KEY_BYTES, TTL_S_MAX
from kvstore.status import Status
from kvstore.transport.control import PIN_OWNER_BYTES_MAX

__all__ = [
    "checked_owner",
    "checked_timeout_ms",
    "key_bytes",
    "pin_ttl_ms",
    "raise_if_wrong_size",
    "raise_refusal",
    "ttl_s_to_ms",
]

_OPTION_MAX = 2**32 - 1  # what the native core holds times and depths in


def ttl_s_to_ms(ttl_s: float) -> int:
    """Raises `InvalidArgumentError` unless the time is positive and no longer than a century."""
    if not isinstance(ttl_s, int | float) or not 0 < ttl_s <= TTL_S_MAX:
        raise InvalidArgumentError(
            f"ttl_s is {ttl_s!r}; it must be a number of seconds above 0 and up to {TTL_S_MAX}, or None for no expiry"
        )
    return max(1, round(ttl_s * 1000))


def pin_ttl_ms(ttl_s: float) -> int:
    """As `ttl_s_to_ms`, but 0 is a time, too: that of unpinning."""
    if not isinstance(ttl_s, int | float) or not 0 <= ttl_s <= TTL_S_MAX:
        raise InvalidArgumentError(
            f"ttl_s is {ttl_s!r}; it must be a number of seconds up to {TTL_S_MAX}, or 0 to unpin"
        )
    return math.ceil(ttl_s * 1000)


def checked_owner(owner: str) -> str:
    """Raises `InvalidArgumentError` unless the owner of a pin is a string of 1 to 255 UTF-8 bytes."""
    try:
        size = len(owner.encode()) if isinstance(owner, str) else 0
    except UnicodeEncodeError:  # a lone surrogate
        size = 0
    if not 0 < size <= PIN_OWNER_BYTES_MAX:
        raise InvalidArgumentError(
            f"owner is {owner!r:.80}; it must be a string of 1 to {PIN_OWNER_BYTES_MAX} UTF-8 bytes"
        )
    return owner


def key_bytes(keys: Any) -> bytes:
    """The keys one after the other. Raises `InvalidArgumentError` for what the native core does not take, either."""
    try:
        view = memoryview(keys)
    except TypeError:
        view = memoryview(b"")
    shape = view.shape or ()
    if view.format != "B" or len(shape) != 2 or shape[1] != KEY_BYTES or not view.c_contiguous:
        raise InvalidArgumentError("keys must be a C-contiguous (n, 32) uint8 array, as Namespace.chain returns")
    return view.tobytes()


def checked_timeout_ms(timeout_ms: int) -> int:
    """Raises `InvalidArgumentError` unless the timeout is a positive whole number."""
    if not isinstance(timeout_ms, int) or not 0 < timeout_ms <= _OPTION_MAX:
        raise InvalidArgumentError(f"timeout_ms is {timeout_ms!r}; it must be a positive whole number of milliseconds")
    return timeout_ms


def raise_if_wrong_size(cause: StatusArray, keys: Any) -> None:
    """Raises `BufferSizeError` for the first block that is stored with another length than its buffer has."""
    index = cause.tobytes().find(Status.WRONG_SIZE)
    if index >= 0:
        key = bytes(np.asarray(keys)[index]).hex()
        raise BufferSizeError(
            f"block {index} of the batch (key {key}) is stored with another length than its buffer has; "
            "check that the layout and the block size are those it was written with"
        )


def raise_refusal(error: Exception, buffers: Any, max_block_bytes: int, options: Mapping[str, Any]) -> NoReturn:
    """Raises the error of `kvstore.errors` for arguments that the native core refused."""
    for name, value in options.items():
        if name == "durable":
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"durable is {value!r}; it must be True or False") from error
        elif not isinstance(value, int) or not 0 <= value <= _OPTION_MAX:
            raise InvalidArgumentError(
                f"{name} is {value!r}; it must be a whole number from 0 to {_OPTION_MAX}"
            ) from error
    for index, size in enumerate(_block_sizes(buffers)):
        if size is not None and size > max_block_bytes:
            raise BlockTooLargeError(
                f"block {index} of the batch has {size} bytes; this client accepts at most {max_block_bytes} "
                "(max_block_bytes)"
            ) from error
        if size == 0:
            raise BufferSizeError(f"block {index} of the batch is empty") from error
    raise InvalidArgumentError(str(error)) from error


def _block_sizes(buffers: Any) -> Sequence[int | None]:
    """The bytes of each block, as far as they can be told."""
    try:
        blocks = list(buffers)
    except TypeError:
        return ()
    return [_block_size(block) for block in blocks]


def _block_size(block: Any) -> int | None:
    pieces = block if isinstance(block, (list, tuple)) else (block,)
    sizes = [_piece_size(piece) for piece in pieces]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _piece_size(piece: Any) -> int | None:
    size = getattr(piece, "nbytes", None)  # arrays of every framework have it, buffers do not
    if isinstance(size, int):
        return size
    try:
        return memoryview(piece).nbytes
    except TypeError:
        return None
