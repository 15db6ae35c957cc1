"""Measuring the disk tier as an engine meets it: through a client on the mapped lane of a node of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from benchmarks.disk.memory import BlockMemory, Keys
from benchmarks.disk.settings import TIMEOUT_MS
from kvstore import connect, connect_async
from kvstore.client import GetResult, PutResult
from kvstore.config import MIB
from kvstore.errors import KVStoreError
from kvstore.transport.address import NodeAddress
from kvstore.transport.control import ControlPlane

__all__ = ["LANE", "Tier", "WriteBack", "Writer"]

LANE: Final = "mapped"

_CALL_BYTES: Final = 16 * MIB
_KEYS_A_CALL_MAX: Final = 1024
_EVERYTHING: Final = 1 << 50
_CHECKED_BLOCKS: Final = 8
_WARM_BYTES: Final = 32 * MIB

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WriteBack:
    """`stored_bytes` of blocks were put and flushed in `seconds`, for which the device was given `device_bytes`."""

    stored_bytes: int
    device_bytes: int
    seconds: float


class Tier:
    """Blocks of one size on the node at `url`, written anew by `write_back` and read by the others.

    Every answer is checked: a figure of calls that failed would flatter. Raises `KVStoreError` for one that did. For a
    `with` statement.
    """

    def __init__(self, url: str, memory: BlockMemory, block_bytes: int, data_bytes: int) -> None:
        self.block_bytes = block_bytes
        self._url = url
        self._memory = memory
        self._keys = memory.new_keys(data_bytes // block_bytes)
        self._call = max(1, min(_KEYS_A_CALL_MAX, _CALL_BYTES // block_bytes))
        self._control = ControlPlane(NodeAddress.parse(url.removeprefix("kv://")))
        self._client = connect(url, lane=LANE, timeout_ms=TIMEOUT_MS)
        # One event loop and one client for all rounds: a mapping of the arena is slow at first.
        self._loop = asyncio.Runner()
        self._many = self._loop.run(connect_async(url, lane=LANE, timeout_ms=TIMEOUT_MS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._many.close())
        self._loop.close()
        self._client.close()
        self._control.close()

    def counters(self) -> dict[str, int]:
        """Of the node."""
        return dict(self._control.stats(timeout_ms=TIMEOUT_MS).counters)

    def write_back(self) -> WriteBack:
        """Replaces all blocks by new ones; the clock stops when `flush` says that they are durable."""
        self._delete()
        self._keys = self._memory.new_keys(len(self._keys))
        device_bytes = self.counters()["device_bytes_written"]
        start_s = time.perf_counter()
        for first in range(0, len(self._keys), self._call):
            keys = self._keys[first : first + self._call]
            _check(self._client.put(keys, self._memory.contents(first, len(keys), self.block_bytes)))
        self._flush()
        seconds = time.perf_counter() - start_s
        device_bytes = self.counters()["device_bytes_written"] - device_bytes
        return WriteBack(len(self._keys) * self.block_bytes, device_bytes, seconds)

    def read_in_flight(self, depth: int) -> float:
        """Bytes a second of reading every block once from disk, one a call, `depth` calls under way without pause."""
        self._forget()
        return self._loop.run(self._read_in_flight(depth))

    def read_in_calls(self, depth: int) -> float:
        """Bytes a second of reading every block once from disk, `depth` in a call, one call after the other."""
        self._forget()
        start_s = time.perf_counter()
        for first in range(0, len(self._keys), depth):
            keys = self._keys[first : first + depth]
            _check(self._client.get(keys, self._memory.room(first, len(keys), self.block_bytes)))
        return len(self._keys) * self.block_bytes / (time.perf_counter() - start_s)

    def read_singly(self, samples: int) -> Seconds:
        """Seconds of reading one block from disk; each block is read once at most."""
        self._forget()
        return self._single_reads(min(samples, len(self._keys)))

    def read_singly_beside_writer(self, samples: int) -> Seconds:
        """As `read_singly`, while another client writes without pause."""
        self._forget()
        with Writer(self._url, self._memory, self.block_bytes):
            return self._single_reads(min(samples, len(self._keys)))

    def hit_singly(self) -> Seconds:
        """Seconds of reading one block from the node's memory."""
        count = max(1, _WARM_BYTES // self.block_bytes)
        self._single_reads(count)
        return self._single_reads(count)

    def check_bytes(self) -> None:
        """Reads some blocks from disk and compares them with what was written."""
        self._forget()
        for number in range(_CHECKED_BLOCKS):
            (room,) = self._memory.room(number, 1, self.block_bytes)
            _check(self._client.get(self._keys[number : number + 1], [room]))
            if not np.array_equal(room, self._memory.contents(number, 1, self.block_bytes)[0]):
                raise KVStoreError(f"block {number} of {self.block_bytes} bytes came back from disk with other bytes")

    def _single_reads(self, count: int) -> Seconds:
        seconds = np.empty(count)
        for number in range(count):
            room = self._memory.room(number, 1, self.block_bytes)
            start_s = time.perf_counter()
            result = self._client.get(self._keys[number : number + 1], room)
            seconds[number] = time.perf_counter() - start_s
            _check(result)
        return seconds

    async def _read_in_flight(self, depth: int) -> float:
        numbers = iter(range(len(self._keys)))

        async def read(slot: int) -> None:
            room = self._memory.room(slot, 1, self.block_bytes)
            for number in numbers:
                _check(await self._many.get(self._keys[number : number + 1], room))

        start_s = time.perf_counter()
        await asyncio.gather(*(read(slot) for slot in range(depth)))
        return len(self._keys) * self.block_bytes / (time.perf_counter() - start_s)

    def _forget(self) -> None:
        """Nothing is left in the node's memory."""
        self._flush()
        self._control.evict(_EVERYTHING, timeout_ms=TIMEOUT_MS)
        if left := self.counters()["blocks"]:
            raise KVStoreError(f"{left} blocks could not be evicted from memory; reads would not be cold")

    def _delete(self) -> None:
        for first in range(0, len(self._keys), _KEYS_A_CALL_MAX):
            self._client.delete(self._keys[first : first + _KEYS_A_CALL_MAX])
        self._flush()

    def _flush(self) -> None:
        if not self._client.flush(timeout_ms=TIMEOUT_MS):
            raise KVStoreError("the node could not flush; its disk is in trouble, or full")


class Writer:
    """Another client that puts new blocks without pause, in a thread, until the `with` statement ends."""

    _HELD_CALLS: Final = 16

    def __init__(self, url: str, memory: BlockMemory, block_bytes: int) -> None:
        self._client = connect(url, lane=LANE, timeout_ms=TIMEOUT_MS)
        self._memory = memory
        self._block_bytes = block_bytes
        # Its own randomness: generators are not for several threads.
        self._random = np.random.default_rng(memory.random.integers(1 << 32))
        self._stop = threading.Event()
        self._under_way = threading.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._work: Future[None] | None = None

    def __enter__(self) -> Self:
        self._work = self._thread.submit(self._run)
        self._under_way.wait(TIMEOUT_MS / 1000)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.shutdown()
        self._client.close()
        assert self._work is not None
        self._work.result()

    def _run(self) -> None:
        held: deque[Keys] = deque()
        count = _CALL_BYTES // self._block_bytes
        try:
            while not self._stop.is_set():
                keys = self._random.integers(0, 256, (count, 32), dtype=np.uint8)
                _check(self._client.put(keys, self._memory.contents(0, count, self._block_bytes)))
                held.append(keys)
                if len(held) > self._HELD_CALLS:
                    self._client.delete(held.popleft())
                    self._under_way.set()  # the disk is as busy as it will be
            for keys in held:
                self._client.delete(keys)
        finally:
            self._under_way.set()


def _check(result: GetResult | PutResult) -> None:
    if not result.all_ok:
        raise KVStoreError(f"a call was not done in full while measuring: {result!r}")
