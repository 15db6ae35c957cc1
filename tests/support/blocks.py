"""Keys and blocks that follow from names, so that any wrong byte is noticed and any failure can be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes", "assert_same", "block", "blocks", "chain", "split"]

Bytes = npt.NDArray[np.uint8]

_WORD = 8
# Odd, so that multiplying permutes the words; the digits are those of the golden ratio.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def chain(name: str, count: int) -> Bytes:
    """`count` keys, a `(count, 32)` array that no other name gives."""
    digest = hashlib.shake_256(name.encode()).digest(32 * count)
    return np.frombuffer(digest, np.uint8).reshape(count, 32)


def block(key: Bytes, size: int, version: int = 0) -> Bytes:
    """The `size` bytes that belong under `key`: each run of 8 depends on the key, the version and its place."""
    digest = hashlib.blake2b(bytes(key) + version.to_bytes(8, "little"), digest_size=_WORD).digest()
    words = np.arange(-(-size // _WORD), dtype=np.uint64)
    words += np.frombuffer(digest, np.uint64)
    words *= _SPREAD
    return words.view(np.uint8)[:size]


def blocks(keys: Bytes, size: int, version: int = 0) -> list[Bytes]:
    return [block(key, size, version) for key in keys]


def split(whole: Bytes, sizes: Sequence[int]) -> list[Bytes]:
    """`whole` in consecutive pieces of `sizes` bytes and, if that is not all, the rest."""
    ends = np.cumsum(sizes)
    pieces = np.split(whole, ends[ends < whole.size])
    return [piece for piece in pieces if piece.size]


def assert_same(found: Bytes, expected: Bytes, what: str = "block") -> None:
    """Fails with the first place where the two differ; comparing megabytes with a plain assert prints them."""
    found, expected = np.asarray(found).reshape(-1).view(np.uint8), expected.reshape(-1).view(np.uint8)
    assert found.size == expected.size, f"{what} has {found.size} bytes, not {expected.size}"
    wrong = np.flatnonzero(found != expected)
    if wrong.size:
        at = int(wrong[0])
        raise AssertionError(
            f"{what}: {wrong.size} of {expected.size} bytes are wrong, first at {at}: "
            f"{bytes(found[at : at + 16]).hex()} instead of {bytes(expected[at : at + 16]).hex()}"
        )
