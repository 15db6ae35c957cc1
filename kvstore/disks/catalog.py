"""The catalog of one disk: which blocks it holds and where. Keys and values are the native core's."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rocksdict import Rdict

from kvstore.disks.disk_directory import DiskDirectory, sync_directory
from kvstore.disks.rocks import (
    Operation,
    RocksError,
    Row,
    RowReader,
    close_database,
    open_database,
    repair_database,
    write,
)

__all__ = ["Catalog", "CatalogReader"]

_log = logging.getLogger("kvstore.disks")

_WRITE_ROWS = 4096
_ATTEMPTS = 2
_SET_ASIDE_MAX = 1000
_LOST = "the blocks of lost rows are misses and will be computed again"
_KEPT = "is kept; delete it once the disk has been checked"


class Catalog:
    """A durable map from bytes to bytes in RocksDB, small beside the blocks that it describes.

    Opening and reading mend what can be mended and lose what cannot: each step is a line in `damage` and in the log.
    Not thread-safe. Raises `OSError` for what the system refuses: no space, no permission, a disk that fails.
    """

    def __init__(self, directory: DiskDirectory) -> None:
        self.damage: list[str] = []
        self._directory = directory
        self._path = directory.catalog_path
        self._database: Rdict | None = self._open_or_mend()

    def batches(self) -> Iterator[list[Row]]:
        """All rows in order of their keys, in lists of some thousands. Rows that cannot be read are passed over.

        If there were any, the rest is copied into a new catalog at the end, because RocksDB would meet them again.
        """
        reader = RowReader(self._opened())
        yield from reader
        if reader.gaps:
            self._copy_what_is_left(reader.gaps)

    def commit(self, operations: Iterable[Operation]) -> None:
        """Applies the operations in their order, all or none; when it returns they have been synced.

        After a write that failed, RocksDB refuses all further ones until it is opened anew, which is done here.
        """
        operations = list(operations)
        for attempt in range(_ATTEMPTS):
            try:
                write(self._opened(), operations)
                # Asked afterwards: what was written before its folder went away is gone with it.
                self._check_present()
                return
            except OSError as error:
                self._let_go()
                if attempt + 1 == _ATTEMPTS:
                    raise OSError(f"the catalog in {self._path} cannot be written: {error}") from error

    def delete(self, keys: Sequence[bytes]) -> None:
        """Removes rows as `commit` does, however many there are."""
        for first in range(0, len(keys), _WRITE_ROWS):
            self.commit((key, None) for key in keys[first : first + _WRITE_ROWS])

    def close(self) -> None:
        """Idempotent. Nothing that was committed depends on it."""
        self._let_go()

    def _opened(self) -> Rdict:
        if self._database is None:
            # RocksDB would make the folder anew.
            self._check_present()
            self._database = open_database(self._path)
        return self._database

    def _check_present(self) -> None:
        self._directory.check_present()
        if not (self._path / "CURRENT").exists():
            raise OSError(f"catalog {self._path} is gone")

    def _let_go(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            close_database(database)

    def _open_or_mend(self) -> Rdict:
        if not self._path.exists() and self._rebuilt_path.exists():
            self._rebuilt_path.rename(self._path)  # the last step of a copy that was cut short
        for line in _missing(self._directory):
            self._note(line)
        if not self._path.exists():
            return self._create()
        try:
            return open_database(self._path)
        except RocksError as error:
            if not error.is_damage:
                raise OSError(f"the catalog in {self._path} cannot be opened: {error}") from error
            return self._mend(error)

    def _create(self) -> Rdict:
        try:
            return open_database(self._path, create=True)
        except RocksError as error:
            raise OSError(f"no catalog can be made in {self._path}: {error}") from error

    def _mend(self, damage: RocksError) -> Rdict:
        try:
            repair_database(self._path)
            database = open_database(self._path)
        except RocksError as error:
            if not error.is_damage:
                raise OSError(f"the damaged catalog in {self._path} cannot be repaired: {error}") from error
            aside = self._set_aside()
            self._note(
                f"the catalog is damaged beyond repair ({error}), and all rows are lost; {_LOST}. It {_KEPT}: {aside}"
            )
            return self._create()
        self._note(
            f"the catalog was damaged ({damage}) and has been repaired; {_LOST}. What was not readable "
            f"{_KEPT}: {self._path / 'lost'}"
        )
        return database

    def _copy_what_is_left(self, gaps: list[str]) -> None:
        found = f"{len(gaps)} places of the catalog cannot be read ({gaps[0]}); {_LOST}"
        try:
            self._write_copy()
        except OSError as error:
            self._note(f"{found}. The rest could not be copied ({error}) and is used as it is")
            return
        self._let_go()
        aside = self._set_aside()
        self._rebuilt_path.rename(self._path)
        sync_directory(self._path.parent)
        self._note(f"{found}. The rest was copied into a new catalog; the damaged one {_KEPT}: {aside}")

    def _write_copy(self) -> None:
        shutil.rmtree(self._rebuilt_path, ignore_errors=True)
        copy = open_database(self._rebuilt_path, create=True)
        try:
            for batch in RowReader(self._opened()):
                for first in range(0, len(batch), _WRITE_ROWS):
                    write(copy, batch[first : first + _WRITE_ROWS])
        finally:
            close_database(copy)

    def _set_aside(self) -> Path:
        names = (self._path.with_name(f"catalog.damaged-{number}") for number in range(1, _SET_ASIDE_MAX))
        aside = next(name for name in names if not name.exists())
        self._path.rename(aside)
        sync_directory(self._path.parent)
        return aside

    @property
    def _rebuilt_path(self) -> Path:
        return self._path.with_name("catalog.rebuilt")

    def _note(self, line: str) -> None:
        self.damage.append(line)
        _log.warning("disk %s: %s", self._directory.path, line)


class CatalogReader:
    """The catalog of a disk that nobody uses, for looking and nothing else. Raises `OSError` as `Catalog` does.

    `damage` says what is wrong with the catalog itself, completely so after all of `batches`.
    """

    def __init__(self, directory: DiskDirectory) -> None:
        self.damage = _missing(directory)
        self._database: Rdict | None = None
        if directory.catalog_path.exists():
            try:
                self._database = open_database(directory.catalog_path, read_only=True)
            except RocksError as error:
                if not error.is_damage:
                    raise OSError(f"the catalog in {directory.catalog_path} cannot be opened: {error}") from error
                self.damage.append(f"the catalog is damaged and none of its rows can be read before a repair ({error})")

    def batches(self) -> Iterator[list[Row]]:
        """All rows that can be read, in order of their keys, in lists of some thousands."""
        if self._database is not None:
            reader = RowReader(self._database)
            yield from reader
            self.damage += [f"a place of the catalog cannot be read ({gap})" for gap in reader.gaps]

    def close(self) -> None:
        """Idempotent."""
        if self._database is not None:
            close_database(self._database)
            self._database = None


def _missing(directory: DiskDirectory) -> list[str]:
    """What RocksDB would not miss."""
    path = directory.catalog_path
    if not path.exists():
        lost = directory.has_extents
        return [f"the catalog is missing, and with it all rows; {_LOST}"] if lost else []
    # It always has a log, if an empty one.
    if not any(path.glob("*.log")):
        return [f"the log of the catalog is missing, and with it the rows that were committed last; {_LOST}"]
    return []
