"""What blocks are written from and read into."""

from __future__ import annotations

import mmap
import os
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from kvstore.config import MIB

__all__ = ["BlockMemory", "Bytes", "Keys"]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Keys: TypeAlias = npt.NDArray[np.uint8]

_REGION_BYTES: Final = 128 * MIB


class BlockMemory:
    """Random bytes to write, and room to read into; of the kind of memory that a node's arena is (a memfd).

    The kind matters to direct I/O: of huge pages the kernel has fewer pieces to hand to a device.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.source = _shared_pages(_REGION_BYTES)
        self.source[:] = random.integers(0, 256, _REGION_BYTES, dtype=np.uint8)
        self.target = _shared_pages(_REGION_BYTES)
        self.target[:] = 1

    def new_keys(self, count: int) -> Keys:
        """Keys that no block has, as a `(count, 32)` array."""
        return self.random.integers(0, 256, (count, 32), dtype=np.uint8)

    def contents(self, first: int, count: int, block_bytes: int) -> list[Bytes]:
        """The bytes of blocks number `first` and following; far apart numbers share theirs."""
        return _slices(self.source, first, count, block_bytes)

    def room(self, first: int, count: int, block_bytes: int) -> list[Bytes]:
        """Memory to read these blocks into."""
        return _slices(self.target, first, count, block_bytes)


def _shared_pages(size_bytes: int) -> Bytes:
    descriptor = os.memfd_create("kvstore-bench")
    try:
        os.ftruncate(descriptor, size_bytes)
        return np.frombuffer(mmap.mmap(descriptor, size_bytes), dtype=np.uint8)
    finally:
        os.close(descriptor)


def _slices(region: Bytes, first: int, count: int, block_bytes: int) -> list[Bytes]:
    places = [number % (len(region) // block_bytes) * block_bytes for number in range(first, first + count)]
    return [region[place : place + block_bytes] for place in places]
