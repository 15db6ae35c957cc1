"""RocksDB as a store of values, with the options of AIBrix's connector (aibrix-kvcache 0.8.0, its defaults)."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rocksdict import AccessType, Options, Rdict

from benchmarks.disk.memory import BlockMemory
from kvstore.config import MIB
from kvstore.errors import KVStoreError

__all__ = ["ROCKS_OPTIONS", "RocksRates", "measure_rocks"]

ROCKS_OPTIONS: Final = (
    "write buffer 64 MiB, at most 3; files of 64 MiB; log of at most 128 MiB in a directory of its own; 8 background"
    " jobs; TTL 600 s; compression and all else as RocksDB has it"
)

_TTL_S: Final = 600
_CHECK_EVERY: Final = 50


@dataclass(frozen=True)
class RocksRates:
    """Bytes a second, and device bytes written for each byte put.

    `put` ends when RocksDB has flushed its buffers to files, which no `fsync` has followed. A get is copied into the
    caller's memory, as the connector does; `cached` comes from the page cache, `uncached` from the device.
    """

    put: float
    cached: float
    uncached: float
    written_a_byte: float


def measure_rocks(directory: Path, memory: BlockMemory, block_bytes: int, data_bytes: int) -> RocksRates:
    """Puts blocks into a new database in `directory`, which must not exist, and reads each of them twice."""
    count = data_bytes // block_bytes
    keys = [key.tobytes() for key in memory.new_keys(count)]
    written_bytes = _written_bytes()
    database = _open(directory)
    start_s = time.perf_counter()
    for number, key in enumerate(keys):
        database.put(key, memory.contents(number, 1, block_bytes)[0].tobytes())
    database.flush(True)
    put_s = time.perf_counter() - start_s
    cached_s = _read_all(database, keys, memory, block_bytes)
    written_bytes = _written_bytes() - written_bytes
    # Not closed and opened anew: then, with a TTL, rocksdict 0.3.29 drops rows long before they are that old.
    _drop_from_page_cache(directory)
    uncached_s = _read_all(database, keys, memory, block_bytes)
    database.close()
    stored_bytes = count * block_bytes
    return RocksRates(
        put=stored_bytes / put_s,
        cached=stored_bytes / cached_s,
        uncached=stored_bytes / uncached_s,
        written_a_byte=written_bytes / stored_bytes,
    )


def _open(directory: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(64 * MIB)
    options.set_target_file_size_base(64 * MIB)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(8)
    options.set_max_total_wal_size(128 * MIB)
    options.set_wal_dir(str(directory / "wal"))
    options.set_db_log_dir(str(directory / "db"))
    directory.mkdir(exist_ok=True)
    return Rdict(str(directory), options, access_type=AccessType.read_write().with_ttl(_TTL_S))


def _read_all(database: Rdict, keys: list[bytes], memory: BlockMemory, block_bytes: int) -> float:
    start_s = time.perf_counter()
    for number, key in enumerate(keys):
        (room,) = memory.room(number, 1, block_bytes)
        value = database.get(key)
        if value is None:
            raise KVStoreError(f"RocksDB has lost block {number}")
        room[:] = np.frombuffer(value, np.uint8)
        if number % _CHECK_EVERY == 0 and not np.array_equal(room, memory.contents(number, 1, block_bytes)[0]):
            raise KVStoreError(f"block {number} came back from RocksDB with other bytes")
    return time.perf_counter() - start_s


def _drop_from_page_cache(directory: Path) -> None:
    for path in filter(Path.is_file, directory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a compaction has just replaced it
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not written yet cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _written_bytes() -> int:
    """What this process has had written to devices so far: proc(5), io."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines())
    return int(fields["write_bytes"])
