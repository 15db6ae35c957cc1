"""The memory that blocks travel from and to on the client's side, and their keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvstore.client import Client
from kvstore.errors import KVStoreError

__all__ = ["Keys", "PutRing", "StoredSet", "WorkingSet"]

Bytes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint8]

_DELETE_KEYS = 4096
_FILL_BYTES = 16 << 20
_PAGE_BYTES = 4096


class WorkingSet:
    """Two regions of equal size, both touched: random bytes to write, and room to read into."""

    def __init__(self, size_bytes: int, random: np.random.Generator) -> None:
        self.size_bytes = size_bytes
        self.source = _page_aligned(size_bytes)
        self.source[:] = random.integers(0, 256, size_bytes, dtype=np.uint8)
        self.target = _page_aligned(size_bytes)
        self.target[:] = 1
        self._random = random

    def new_keys(self, count: int) -> Keys:
        """Keys that no block has, as a `(count, 32)` array."""
        return self._random.integers(0, 256, (count, 32), dtype=np.uint8)


def _page_aligned(size_bytes: int) -> Bytes:
    """Memory as tensor libraries and engines allocate it; numpy alone starts its arrays 16 bytes into a page."""
    spare = np.empty(size_bytes + _PAGE_BYTES, dtype=np.uint8)
    start = -spare.ctypes.data % _PAGE_BYTES
    return spare[start : start + size_bytes]


def _blocks(region: Bytes, block_bytes: int, first: int, count: int) -> list[Bytes]:
    return [
        region[place : place + block_bytes]
        for place in range(first * block_bytes, (first + count) * block_bytes, block_bytes)
    ]


class StoredSet:
    """Blocks of one size that the node holds, handed out in turn.

    All lanes share the turn, so that none reads what the one before it has just brought into the cache.
    """

    def __init__(self, working_set: WorkingSet, block_bytes: int, count: int | None = None) -> None:
        """`count` blocks, at most and by default as many as the working set holds."""
        self.block_bytes = block_bytes
        most = working_set.size_bytes // block_bytes
        self.keys = working_set.new_keys(most if count is None else min(count, most))
        self._memory = working_set
        self._next = 0

    def fill(self, client: Client) -> None:
        """Writes all blocks. Raises `KVStoreError` if the node does not take them."""
        step = max(1, _FILL_BYTES // self.block_bytes)
        for first in range(0, len(self.keys), step):
            keys = self.keys[first : first + step]
            result = client.put(keys, _blocks(self._memory.source, self.block_bytes, first, len(keys)))
            if not result.all_ok:
                raise KVStoreError(f"the node did not take the blocks to measure with: {result!r}")

    def touch_all(self, client: Client) -> None:
        """Reads all blocks once: a client that maps the node's memory touches its pages, too, before it is timed."""
        step = max(1, _FILL_BYTES // self.block_bytes)
        for _ in range(0, len(self.keys), step):
            client.get(*self.take(min(step, len(self.keys))))

    def take(self, count: int) -> tuple[Keys, list[Bytes]]:
        """The next `count` keys, and memory to read them into."""
        first = self._next if self._next + count <= len(self.keys) else 0
        self._next = first + count
        return self.keys[first : first + count], _blocks(self._memory.target, self.block_bytes, first, count)

    def check_bytes(self, client: Client, count: int) -> None:
        """Reads some blocks and compares them with what was written. Raises `KVStoreError` unless they are equal."""
        keys, blocks = self.take(count)
        first = self._next - count
        result = client.get(keys, blocks)
        expected = _blocks(self._memory.source, self.block_bytes, first, count)
        if not result.all_ok or not all(map(np.array_equal, blocks, expected)):
            raise KVStoreError(f"{client!r} does not return the blocks that were written: {result!r}")

    def delete(self, client: Client) -> None:
        """Removes all blocks from the node."""
        _delete(client, [self.keys])


class PutRing:
    """Blocks written while measuring. The oldest make room for new ones, so that the node's memory is used in turn."""

    def __init__(self, working_set: WorkingSet) -> None:
        self._memory = working_set
        self._held: deque[tuple[Keys, int]] = deque()
        self._held_bytes = 0
        self._next_byte = 0

    def take(self, client: Client, block_bytes: int, count: int) -> tuple[Keys, list[Bytes]]:
        """New keys and blocks for them, for which the node has room now."""
        wanted_bytes = block_bytes * count
        while self._held and self._held_bytes + wanted_bytes > self._memory.size_bytes:
            keys, held_bytes = self._held.popleft()
            client.delete(keys)
            self._held_bytes -= held_bytes
        first = -(-self._next_byte // block_bytes)
        if (first + count) * block_bytes > self._memory.size_bytes:
            first = 0
        self._next_byte = (first + count) * block_bytes
        keys = self._memory.new_keys(count)
        self._held.append((keys, wanted_bytes))
        self._held_bytes += wanted_bytes
        return keys, _blocks(self._memory.source, block_bytes, first, count)

    def clear(self, client: Client) -> None:
        """Removes from the node what is left."""
        _delete(client, [keys for keys, _ in self._held])
        self._held.clear()
        self._held_bytes = 0


def _delete(client: Client, keys: Sequence[Keys]) -> None:
    if keys:
        together = np.concatenate(keys)
        for first in range(0, len(together), _DELETE_KEYS):
            client.delete(together[first : first + _DELETE_KEYS])
