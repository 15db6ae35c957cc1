"""RocksDB as the catalog uses it: how it is opened, and how it is read when parts of it cannot be."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

__all__ = [
    "Operation",
    "RocksError",
    "Row",
    "RowReader",
    "close_database",
    "open_database",
    "repair_database",
    "write",
]

Row: TypeAlias = tuple[bytes, bytes]
Operation: TypeAlias = tuple[bytes, bytes | None]
"""(key, value to put there), or (key, None) to delete."""

_KIB, _MIB = 1 << 10, 1 << 20
_BATCH_ROWS = 1 << 16
_READ_AHEAD_BYTES = 2 * _MIB
# What cannot be read is passed over in steps that begin with this part of the space of keys and double.
_POSITION_BYTES = 16
_FIRST_STEP = 1 << (8 * (_POSITION_BYTES - 1) - 36)
_END_POSITION = 1 << 8 * _POSITION_BYTES


class RocksError(OSError):
    """What RocksDB refused."""

    @property
    def is_damage(self) -> bool:
        """Whether the files are at fault, which can be mended, rather than what the system does with them."""
        text = str(self)
        return not text.startswith("IO error") or "No such file or directory" in text


@contextlib.contextmanager
def rocks_errors() -> Iterator[None]:
    """Gives RocksDB's errors, which are bare `Exception`s, a type and one line."""
    try:
        yield
    except Exception as error:
        raise RocksError(" ".join(str(error).split())) from error


def _options(*, create: bool = False) -> Options:
    """Settings for some 80 bytes a block: bounded memory, and files so small that a damaged one costs little."""
    chosen = Options(raw_mode=True)
    chosen.create_if_missing(create)
    chosen.set_paranoid_checks(True)
    # A process or a machine that died in the middle of a write leaves a torn end. Damage anywhere else is an error.
    chosen.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    chosen.set_recycle_log_file_num(0)
    chosen.set_write_buffer_size(4 * _MIB)
    # Writes never wait for flushes and compactions (see `write`), so there is room for those to lag.
    chosen.set_max_write_buffer_number(6)
    chosen.set_level_zero_slowdown_writes_trigger(1000)
    chosen.set_level_zero_stop_writes_trigger(1000)
    chosen.set_soft_pending_compaction_bytes_limit(0)
    chosen.set_hard_pending_compaction_bytes_limit(0)
    chosen.set_max_total_wal_size(16 * _MIB)
    chosen.set_target_file_size_base(4 * _MIB)
    chosen.set_max_bytes_for_level_base(32 * _MIB)
    chosen.set_max_background_jobs(2)
    # Keys and checksums are noise, which nothing compresses.
    chosen.set_compression_type(DBCompressionType.none())
    chosen.set_manifest_preallocation_size(64 * _KIB)
    chosen.set_max_manifest_file_size(4 * _MIB)
    chosen.set_keep_log_file_num(2)
    chosen.set_max_log_file_size(_MIB)
    chosen.set_stats_dump_period_sec(0)
    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(4 * _MIB))
    chosen.set_block_based_table_factory(tables)
    return chosen


def open_database(path: Path, *, create: bool = False, read_only: bool = False) -> Rdict:
    """Opens what is there, or makes a new one with `create`. Raises `RocksError`."""
    access = AccessType.read_only(False) if read_only else AccessType.read_write()
    with rocks_errors():
        return Rdict(str(path), _options(create=create), access_type=access)


def repair_database(path: Path) -> None:
    """Makes the database anew from the tables and logs that can be read. Raises `RocksError`."""
    with rocks_errors():
        Rdict.repair(str(path), _options())


def close_database(database: Rdict) -> None:
    """Lets go of the files. What RocksDB says about work that it could not finish does not keep it open."""
    with contextlib.suppress(RocksError), rocks_errors():
        database.close()


def write(database: Rdict, operations: Iterable[Operation]) -> None:
    """Applies the operations in their order, all or none; when it returns they have been synced. Raises `RocksError`.

    RocksDB is told to refuse what it would make wait. A full disk makes it wait for ever, and with the GIL held.
    """
    batch = WriteBatch(raw_mode=True)
    for key, value in operations:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    at_once = WriteOptions()
    at_once.no_slowdown = True
    with rocks_errors():
        # A synced write would hold the GIL until the disk has answered; syncing the log afterwards lets go of it.
        database.write(batch, at_once)
        database.flush_wal(sync=True)


class RowReader:
    """All rows of a database in order of their keys, in lists of some thousands; what cannot be read is passed over.

    RocksDB stops at a damaged block without a word, so its status is asked for at every end. One block of a table
    holds some 50 rows; a run of damaged ones counts as one gap. Where several tables overlap, the rows of all of them
    are passed over in a gap: reading only some would bring back what was deleted.
    """

    def __init__(self, database: Rdict) -> None:
        self.gaps: list[str] = []
        """What RocksDB said of each place that could not be read."""
        self._database = database
        self._options = ReadOptions()
        self._options.set_readahead_size(_READ_AHEAD_BYTES)

    def __iter__(self) -> Iterator[list[Row]]:
        start: bytes | None = None
        last = b""
        while True:
            rows = self._database.items(from_key=start, read_opt=self._options)
            while batch := cast(list[Row], list(itertools.islice(rows, _BATCH_ROWS))):
                last = batch[-1][0]
                yield batch
            start = self._resume_after(last)
            if start is None:
                return

    def _resume_after(self, last: bytes) -> bytes | None:
        """The first key behind a gap that begins after `last`; None where all has been read."""
        try:
            return self._first_key_from(last + b"\0")
        except RocksError as error:
            self.gaps.append(str(error))
            return self._first_key_behind_gap(last)

    def _first_key_behind_gap(self, last: bytes) -> bytes | None:
        """Out of the gap by doubling steps, then back to its end by halving."""
        damaged = int.from_bytes(last[:_POSITION_BYTES].ljust(_POSITION_BYTES, b"\0"))
        step = _FIRST_STEP
        readable, found = self._probe(damaged + step)
        while not readable:
            damaged += step
            step *= 2
            readable, found = self._probe(damaged + step)
        end = damaged + step
        while end - damaged > _FIRST_STEP:
            middle = (damaged + end) // 2
            readable, key = self._probe(middle)
            if readable:
                end, found = middle, key
            else:
                damaged = middle
        return found

    def _probe(self, position: int) -> tuple[bool, bytes | None]:
        """Whether the place can be read, and the first key from there, if there is one."""
        if position >= _END_POSITION:
            return True, None
        try:
            return True, self._first_key_from(position.to_bytes(_POSITION_BYTES))
        except RocksError:
            return False, None

    def _first_key_from(self, start: bytes) -> bytes | None:
        # A cursor that has met damage answers by what it remembers: each look takes a new one.
        cursor = self._database.iter(self._options)
        with rocks_errors():
            cursor.seek(start)
            cursor.status()
            return cast(bytes, cursor.key()) if cursor.valid() else None
