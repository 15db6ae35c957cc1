"""A catalog with a file lost, emptied or changed: what is left is served, nothing is wrong, and the log says it."""

import logging
import shutil

import pytest

from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from tests.disks.catalogs import COMMIT_ROWS, commit_all, crashed_copy, read_all, some_rows

ROWS = 150_000
# One table has 4 MiB, some 45,000 rows; one block of it 4 KiB, some 50.
TABLE_ROWS_MAX = 70_000
PLACES = (0.0, 0.01, 0.3, 0.5, 0.7, 0.999, 1.0)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A disk whose node was killed: several tables, and a log with rows that are nowhere else."""
    folder = tmp_path_factory.mktemp("catalog")
    directory = DiskDirectory(folder / "alive", create=True)
    catalog = Catalog(directory)
    commit_all(catalog, some_rows(ROWS))
    crashed_copy(catalog, directory, folder / "crashed")
    catalog.close()
    directory.close()
    files = [file.suffix for file in (folder / "crashed" / "catalog").iterdir() if file.stat().st_size]
    assert files.count(".sst") >= 3
    assert ".log" in files
    return folder / "crashed"


@pytest.fixture
def disk(crashed, tmp_path):
    """A copy of it to be hurt. The rows that are found must be true ones, and the same ones again and again."""
    return Disk(shutil.copytree(crashed, tmp_path / "disk"))


class Disk:
    def __init__(self, path):
        self.path = path
        self.catalog_path = path / "catalog"

    def find(self, pattern):
        """The files of a kind, the largest last."""
        return sorted(self.catalog_path.glob(pattern), key=lambda file: file.stat().st_size)

    def flip(self, file, place):
        content = bytearray(file.read_bytes())
        if file.suffix == ".log":
            content = content.rstrip(b"\0")
        content[int(place * (len(content) - 1))] ^= 0x10
        file.write_bytes(content)

    def lost_rows(self, caplog):
        """How many rows are gone, after two starts and a commit in between; and what was said about it."""
        truth = dict(some_rows(ROWS))
        with caplog.at_level(logging.WARNING, logger="kvstore.disks"):
            found, said = self._start(commit=[(b"b new", b"new")])
        assert found.items() <= truth.items()
        assert [record.getMessage() for record in caplog.records] == [f"disk {self.path}: {line}" for line in said]
        again, said_again = self._start()
        assert again == found | {b"b new": b"new"}
        assert said_again == []
        return len(truth) - len(found), said

    def _start(self, commit=()):
        directory = DiskDirectory(self.path, create=False)
        catalog = Catalog(directory)
        try:
            rows = read_all(catalog)
            if commit:
                catalog.commit(commit)
            return rows, catalog.damage
        finally:
            catalog.close()
            directory.close()


def test_nothing_is_lost_without_damage(disk, caplog):
    assert disk.lost_rows(caplog) == (0, [])


@pytest.mark.parametrize("place", PLACES)
def test_a_flipped_bit_in_a_table(disk, caplog, place):
    disk.flip(disk.find("*.sst")[-1], place)
    lost, said = disk.lost_rows(caplog)
    assert len(said) == 1
    assert "recomputed" in said[0] or "computed again" in said[0]
    if place < 0.9:  # one block of rows
        assert 0 < lost < 2000
        assert "1 places of the catalog cannot be read" in said[0]
    else:  # what says where the rows are
        assert 0 < lost < TABLE_ROWS_MAX
        assert "has been repaired" in said[0]


def test_many_damaged_places(disk, caplog):
    for file in disk.find("*.sst"):
        for place in (0.0, 0.1, 0.4, 0.41, 0.9):
            disk.flip(file, place)
    lost, said = disk.lost_rows(caplog)
    assert 0 < lost < 15_000
    assert len(said) == 1


def test_a_table_full_of_zeros_but_for_its_ends(disk, caplog):
    file = disk.find("*.sst")[-1]
    content = file.read_bytes()
    tenth = len(content) // 10
    file.write_bytes(content[:tenth] + bytes(len(content) - 2 * tenth) + content[-tenth:])
    lost, said = disk.lost_rows(caplog)
    assert 0 < lost < ROWS
    assert len(said) == 1


@pytest.mark.parametrize("kind", ["*.sst", "*.log", "MANIFEST-*", "CURRENT"])
def test_a_lost_file(disk, caplog, kind):
    disk.find(kind)[-1].unlink()
    lost, said = disk.lost_rows(caplog)
    assert len(said) == 1
    assert lost < TABLE_ROWS_MAX
    if kind in ("MANIFEST-*", "CURRENT"):
        assert lost == 0
    if kind == "*.log":
        assert lost > 0
        assert "the log of the catalog is missing" in said[0]


@pytest.mark.parametrize("kind", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_an_emptied_file(disk, caplog, kind):
    disk.find(kind)[-1].write_bytes(b"")
    lost, said = disk.lost_rows(caplog)
    assert len(said) == 1
    assert lost < TABLE_ROWS_MAX


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["*.log", "MANIFEST-*", "CURRENT"])
def test_a_flipped_bit_elsewhere(disk, caplog, kind, place):
    disk.flip(disk.find(kind)[-1], place)
    lost, said = disk.lost_rows(caplog)
    assert len(said) == 1
    assert "has been repaired" in said[0]
    # A record of the log is a commit.
    assert lost == (COMMIT_ROWS if kind == "*.log" else 0)


@pytest.mark.parametrize("kind", ["OPTIONS-*", "IDENTITY", "LOG", "LOCK", "*.json"])
def test_what_only_informs_may_be_lost(disk, caplog, kind):
    disk.find(kind)[-1].unlink()
    assert disk.lost_rows(caplog) == (0, [])


def test_beyond_repair_it_starts_empty_and_keeps_the_old_one(disk, caplog):
    (disk.path / "extents-0000.kv").write_bytes(b"")
    for file in disk.catalog_path.iterdir():
        if file.is_file():
            file.write_bytes(b"garbage")
    lost, said = disk.lost_rows(caplog)
    assert lost == ROWS
    assert len(said) == 1


def test_a_lost_folder(disk, caplog):
    (disk.path / "extents-0000.kv").write_bytes(b"")
    shutil.rmtree(disk.catalog_path)
    lost, said = disk.lost_rows(caplog)
    assert lost == ROWS
    assert said == [
        "the catalog is missing, and with it all rows; the blocks of lost rows are misses and will be computed again"
    ]


def test_a_copy_that_was_cut_short_is_taken_up(disk, caplog):
    disk.catalog_path.rename(disk.path / "catalog.rebuilt")
    assert disk.lost_rows(caplog) == (0, [])


def test_a_half_made_copy_is_made_anew(disk, caplog):
    shutil.copytree(disk.catalog_path, disk.path / "catalog.rebuilt")
    disk.flip(disk.find("*.sst")[-1], 0.5)
    lost, _ = disk.lost_rows(caplog)
    assert 0 < lost < 2000
    assert (disk.path / "catalog.damaged-1").is_dir()
    assert not (disk.path / "catalog.rebuilt").exists()
