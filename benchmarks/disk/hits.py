"""How fast blocks in memory are read while others are written to disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from benchmarks.disk.memory import BlockMemory
from benchmarks.disk.settings import LARGE_BYTES, TIMEOUT_MS
from benchmarks.disk.tier import LANE, Writer
from kvstore import connect
from kvstore.config import GIB, MIB
from kvstore.errors import KVStoreError
from kvstore.transport import native

__all__ = ["HitRates", "Hits"]

_HOT_BYTES: Final = 64 * MIB
_DEPTH: Final = 8
_RAW_FILE_BYTES: Final = GIB
_IDLE_S: Final = 0.2
_BESIDE_WRITER_S: Final = 0.3


@dataclass(frozen=True)
class HitRates:
    """Bytes a second of reading from memory, medians over calls of eight blocks of 2 MiB.

    `idle`; `write_back`: blocks that are in memory already go to disk, which no client does work for; `raw_writes`:
    somebody else writes to the disk as fast as it goes; `writer`: another client writes without pause into memory
    alone; `writer_and_write_back`: it does, and everything goes to disk.
    """

    idle: float
    write_back: float
    raw_writes: float
    writer: float
    writer_and_write_back: float


class Hits:
    """Blocks that stay in memory, on two nodes. For a `with` statement.

    `waiting` takes blocks to disk only when it is told to (admission `off`, then `flush`): so write-back can be watched
    alone. `eager` does at once.
    """

    def __init__(
        self, waiting_url: str, eager_url: str, memory: BlockMemory, directory: Path, flushed_bytes: int
    ) -> None:
        self._memory = memory
        self._flushed_blocks = flushed_bytes // LARGE_BYTES
        self._waiting = _HotBlocks(waiting_url, memory)
        self._eager = _HotBlocks(eager_url, memory)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="beside")
        # Made by the thread that uses it.
        self._raw = self._thread.submit(
            lambda: native().DiskBounds(memory.source, memory.target, str(directory), _RAW_FILE_BYTES)
        ).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        self._waiting.client.close()
        self._eager.client.close()

    def measure(self) -> HitRates:
        """One of each, one right after the other."""
        idle = self._waiting.read_for(_IDLE_S)
        write_back = self._beside_flush()
        raw_writes = self._beside_raw_writes()
        with Writer(self._waiting.url, self._memory, LARGE_BYTES):
            writer = self._waiting.read_for(_BESIDE_WRITER_S)
        with Writer(self._eager.url, self._memory, LARGE_BYTES):
            both = self._eager.read_for(_BESIDE_WRITER_S)
        return HitRates(idle, write_back, raw_writes, writer, both)

    def _beside_raw_writes(self) -> float:
        writing = self._thread.submit(self._raw.measure, "write", LARGE_BYTES, _DEPTH, round(1000 * _IDLE_S))
        rate = self._waiting.read_while(lambda: not writing.done())
        writing.result()
        return rate

    def _beside_flush(self) -> float:
        hot = self._waiting
        keys = self._memory.new_keys(self._flushed_blocks)
        for first in range(0, len(keys), _DEPTH):
            some = keys[first : first + _DEPTH]
            if not hot.client.put(some, self._memory.contents(first, len(some), LARGE_BYTES)).all_ok:
                raise KVStoreError("the node did not take the blocks to flush")
        flushing = self._thread.submit(hot.client.flush, timeout_ms=TIMEOUT_MS)
        rate = hot.read_while(lambda: not flushing.done())
        if not flushing.result():
            raise KVStoreError("the node could not flush; its disk is in trouble, or full")
        hot.client.delete(keys)
        return rate


class _HotBlocks:
    """Blocks that are read so often that they stay in memory."""

    def __init__(self, url: str, memory: BlockMemory) -> None:
        self.url = url
        self.client = connect(url, lane=LANE, timeout_ms=TIMEOUT_MS)
        self._memory = memory
        self._keys = memory.new_keys(_HOT_BYTES // LARGE_BYTES)
        self._next = 0
        if not self.client.put(self._keys, memory.contents(0, len(self._keys), LARGE_BYTES)).all_ok:
            raise KVStoreError("the node did not take the blocks to read from memory")
        if not self.client.flush(timeout_ms=TIMEOUT_MS):
            raise KVStoreError("the node could not flush; its disk is in trouble, or full")

    def read_for(self, seconds: float) -> float:
        """Bytes a second."""
        for _ in range(2 * len(self._keys) // _DEPTH):
            self._read_once()  # back from disk, if others have taken their place
        end_s = time.perf_counter() + seconds
        return self.read_while(lambda: time.perf_counter() < end_s)

    def read_while(self, goes_on: Callable[[], bool]) -> float:
        """Bytes a second, of calls that began and ended while it went on."""
        from_disk = self._blocks_from_disk()
        calls: list[float] = []
        while goes_on():
            calls.append(self._read_once())
        if self._blocks_from_disk() != from_disk:
            raise KVStoreError("blocks that should be in memory were read from disk; they were evicted")
        if len(calls) < 2:
            raise KVStoreError("there was no time for a single read; measure with more data")
        return _DEPTH * LARGE_BYTES / float(np.median(calls[:-1]))

    def _read_once(self) -> float:
        first = self._next
        self._next = (first + _DEPTH) % len(self._keys)
        room = self._memory.room(first, _DEPTH, LARGE_BYTES)
        start_s = time.perf_counter()
        result = self.client.get(self._keys[first : first + _DEPTH], room)
        seconds = time.perf_counter() - start_s
        if not result.all_ok:
            raise KVStoreError(f"a block in memory was not read: {result!r}")
        return seconds

    def _blocks_from_disk(self) -> int:
        counters = self.client.stats(timeout_ms=TIMEOUT_MS)["node"]
        if counters is None:
            raise KVStoreError("the node does not answer any more")
        return int(counters["nvme_read_blocks"])
