"""Between what callers write and what the native core takes. Nothing here runs once per block unless a call failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from kvstore.client.results import StatusArray
from kvstore.errors import BlockTooLargeError, BufferSizeError, InvalidArgumentError
from kvstore.status import Status

__all__ = ["checked_timeout_ms", "raise_if_wrong_size", "raise_refusal", "ttl_s_to_ms"]

_OPTION_MAX = 2**32 - 1  # what the native core holds times and depths in

_TTL_S_MAX = 100 * 365 * 24 * 3600


def ttl_s_to_ms(ttl_s: float) -> int:
    """Raises `InvalidArgumentError` unless the time is positive and no longer than a century."""
    if not isinstance(ttl_s, int | float) or not 0 < ttl_s <= _TTL_S_MAX:
        raise InvalidArgumentError(
            f"ttl_s is {ttl_s!r}; it must be a number of seconds above 0 and up to {_TTL_S_MAX}, or None for no expiry"
        )
    return max(1, round(ttl_s * 1000))


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
        if not isinstance(value, int) or not 0 <= value <= _OPTION_MAX:
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
