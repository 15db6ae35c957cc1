"""The catalog on a disk that is full, or that goes away: it refuses, keeps what it has, and takes up again."""

import shutil

import pytest

from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from tests.disks.catalogs import COMMIT_ROWS, read_all, some_rows
from tests.support.file_systems import small_file_system

MIB = 1 << 20


@pytest.fixture
def file_system(tmp_path):
    with small_file_system(tmp_path / "mount", 12 * MIB) as mounted:
        yield mounted


@pytest.fixture
def directory(file_system):
    opened = DiskDirectory(file_system.path / "disk", create=True)
    yield opened
    opened.close()


def commit_until_refused(catalog, rows):
    """Commits row group by group until the disk is full; returns those that were acknowledged."""
    for first in range(0, len(rows), COMMIT_ROWS):
        try:
            catalog.commit(rows[first : first + COMMIT_ROWS])
        except OSError:
            return rows[:first]
    pytest.fail("the disk was never full")


def test_a_full_disk_refuses_keeps_and_recovers(directory, file_system):
    rows = some_rows(150_000)
    catalog = Catalog(directory)
    kept = commit_until_refused(catalog, rows)
    for _ in range(3):
        with pytest.raises(OSError, match=r"catalog in .* cannot be written: .*No space left on device"):
            catalog.commit(rows[len(kept) : len(kept) + COMMIT_ROWS])
    file_system.resize(128 * MIB)
    catalog.commit(rows[len(kept) : len(kept) + COMMIT_ROWS])
    assert read_all(catalog) == dict(rows[: len(kept) + COMMIT_ROWS])
    assert catalog.damage == []
    catalog.close()


def test_what_was_acknowledged_on_a_full_disk_is_there_after_a_restart(directory, file_system):
    rows = some_rows(150_000)
    catalog = Catalog(directory)
    kept = commit_until_refused(catalog, rows)
    catalog.close()
    file_system.resize(128 * MIB)
    again = Catalog(directory)
    found = read_all(again)
    assert dict(kept).items() <= found.items()
    # What was refused may be there, whole: the caller commits it once more.
    assert len(found) - len(kept) in (0, COMMIT_ROWS)
    assert again.damage == []
    again.close()


def test_opening_on_a_full_disk_is_an_error_and_costs_nothing(directory, file_system):
    rows = some_rows(10 * COMMIT_ROWS)
    catalog = Catalog(directory)
    catalog.commit(rows)
    catalog.close()
    ballast = file_system.fill()
    with pytest.raises(OSError, match="cannot be opened: .*No space left on device"):
        Catalog(directory)
    ballast.unlink()
    again = Catalog(directory)
    assert read_all(again) == dict(rows)
    assert again.damage == []
    again.close()


def test_nothing_is_acknowledged_in_a_directory_that_was_removed(tmp_path):
    directory = DiskDirectory(tmp_path / "disk", create=True)
    catalog = Catalog(directory)
    catalog.commit(some_rows(10))
    shutil.rmtree(directory.path)
    for _ in range(2):
        with pytest.raises(OSError, match="is gone"):
            catalog.commit(some_rows(10))
    assert not directory.path.exists()
    catalog.close()
    directory.close()


def test_takes_up_again_when_the_directory_is_back(tmp_path):
    directory = DiskDirectory(tmp_path / "disk", create=True)
    catalog = Catalog(directory)
    rows = some_rows(3)
    catalog.commit(rows[:1])
    directory.path.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is gone"):
        catalog.commit(rows[1:2])
    (tmp_path / "elsewhere").rename(directory.path)
    catalog.commit(rows[1:])
    assert read_all(catalog) == dict(rows)
    catalog.close()
    directory.close()


def test_a_catalog_that_was_removed_is_not_made_anew_under_a_running_node(tmp_path):
    directory = DiskDirectory(tmp_path / "disk", create=True)
    catalog = Catalog(directory)
    catalog.commit(some_rows(1))
    shutil.rmtree(directory.catalog_path)
    with pytest.raises(OSError, match="cannot be written"):
        catalog.commit(some_rows(1))
    catalog.close()
    directory.close()
