"""Damage that a disk took while its node was down: it is told in the log, costs what was hurt, and nothing else."""

from __future__ import annotations

import logging
import re
import shutil

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.errors import ConnectError
from tests.faults.disk_files import FLIPS, flip, lose, truncate
from tests.node_process import wait_until
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.disk_node import GRANULE, MIB, DiskNode, check_disk

SIZE = 50_000
COUNT = 40
DISK_SIZE = "16MiB"
DAMAGE = {"lost": lose, "truncated": truncate, "flipped": flip}
# Beside the catalog's files of changing names: what has no rows in it, so that nothing may be missing without it.
WITHOUT_ROWS = re.compile(r"LOG(\.old\.\d+)?|LOCK|IDENTITY|OPTIONS-\d+")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The disk of a node that was killed twice, so that some rows are in tables and some in the log."""
    folder = tmp_path_factory.mktemp("sound")
    with DiskNode(folder, memory="8MiB", disk_size=DISK_SIZE) as node:
        for half in halves():
            with kvstore.connect(node.url, timeout_ms=30_000) as store:
                assert store.put(half, blocks(half, SIZE), durable=True).all_ok
            node.kill()
            if half is not halves()[-1]:
                node.start()
    return node.disk


def halves():
    names = chain("damage", COUNT)
    return [names[: COUNT // 2], names[COUNT // 2 :]]


@pytest.fixture
def disk(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "disk")


@pytest.fixture
def opened(disk, caplog):
    """`opened()` is a store of this process on the disk."""
    stores = []

    def connect():
        stores.append(kvstore.connect(f"embedded://?memory=8MiB&disk={disk}&disk_size={DISK_SIZE}", timeout_ms=30_000))
        return stores[-1]

    with caplog.at_level(logging.WARNING):
        yield connect
        for store in stores:
            store.close()


def missing(store):
    """How many blocks are gone; all others have their exact bytes."""
    names = chain("damage", COUNT)
    buffers = np.full((COUNT, SIZE), 0xEE, np.uint8)
    causes = store.get(names, buffers).cause
    for name, buffer, cause in zip(names, buffers, causes.tolist(), strict=True):
        assert cause in {Status.OK, Status.MISS}
        assert_same(buffer, block(name, SIZE) if cause == Status.OK else np.full(SIZE, 0xEE, np.uint8))
    return int((causes == Status.MISS).sum())


def assert_serves(store):
    names = chain("after the damage", 4)
    contents = blocks(names, SIZE)
    assert store.put(names, contents, durable=True).all_ok
    store.delete(chain("damage", COUNT))
    assert store.put(chain("damage", COUNT)[:4], contents, durable=True).all_ok
    assert store.flush()


def warnings(caplog):
    return [record.message for record in caplog.records if record.name == "kvstore.disks"]


def assert_told(caplog, disk, lost):
    """Something was lost if and only if there is a line about it, which says where."""
    lines = warnings(caplog)
    assert lines or not lost, "blocks are gone and nobody says why"
    assert all(str(disk) in line for line in lines), lines
    assert len(lines) <= 3, lines


def extent_file(disk):
    return disk / "extents-0000.kv"


class TestExtents:
    def test_a_file_that_is_too_short(self, disk, opened, caplog):
        truncate(extent_file(disk), MIB)
        store = opened()
        lost = missing(store)
        assert 0 < lost < COUNT
        assert_told(caplog, disk, lost)
        assert_serves(store)

    def test_a_file_that_is_gone(self, disk, opened, caplog):
        lose(extent_file(disk))
        store = opened()
        assert missing(store) == COUNT
        assert_told(caplog, disk, COUNT)
        assert_serves(store)

    @pytest.mark.parametrize("at", [0, 20, 600])
    def test_a_header(self, disk, opened, caplog, at):
        flip(extent_file(disk), at)
        store = opened()
        assert missing(store) == 0
        assert_serves(store)

    def test_a_flipped_bit(self, disk, opened, caplog):
        """Found by who reads it: one miss, counted, and its place is never used again while the node runs."""
        flip(extent_file(disk), GRANULE + 3 * (SIZE // GRANULE + 1) * GRANULE + 77)
        store = opened()
        assert missing(store) == 1
        assert missing(store) == 1
        counters = store.stats()["node"]
        assert counters["nvme_wrong_checksums"] == counters["nvme_quarantined_blocks"] == 1
        wait_until(lambda: store.stats()["node"]["leases"] == 0, "the leases end")
        assert_serves(store)

    def test_many_flipped_bits(self, disk, opened):
        places = FLIPS.integers(GRANULE, 2 * MIB, 30)
        for place in places:
            flip(extent_file(disk), int(place))
        found = check_disk(disk)
        hurt = sum(finding["why"] == "corrupt" for finding in found["findings"])
        store = opened()
        assert missing(store) == hurt > 0
        assert_serves(store)

    def test_repaired(self, disk, opened, caplog):
        flip(extent_file(disk), 5 * GRANULE)
        truncate(extent_file(disk), MIB)
        assert check_disk(disk, repair=True)["status"] == 1
        assert not check_disk(disk)["findings"]
        store = opened()
        assert 0 < missing(store) < COUNT
        assert store.stats()["node"]["nvme_quarantined_blocks"] == 0


def catalog_files(folder):
    return sorted(path.name for path in (folder / "catalog").iterdir() if path.is_file())


@pytest.mark.parametrize("how", DAMAGE)
def test_every_file_of_the_catalog(sound, tmp_path, caplog, how):
    """Kinds of files and not names make the cases: the names depend on how often the catalog was opened."""
    assert {name.rpartition(".")[2].partition("-")[0] for name in catalog_files(sound)} >= {"log", "sst", "CURRENT"}
    for number, name in enumerate(catalog_files(sound)):
        caplog.clear()
        disk = shutil.copytree(sound, tmp_path / str(number))
        DAMAGE[how](disk / "catalog" / name)
        with (
            caplog.at_level(logging.WARNING),
            kvstore.connect(f"embedded://?memory=8MiB&disk={disk}&disk_size={DISK_SIZE}", timeout_ms=30_000) as store,
        ):
            lost = missing(store)
            assert not lost or not WITHOUT_ROWS.fullmatch(name), f"{name} has no rows, but {lost} blocks are gone"
            assert_told(caplog, disk, lost)
            assert_serves(store)
        assert check_disk(disk)["status"] == 0, name
        shutil.rmtree(disk)


def test_the_whole_catalog(disk, opened, caplog):
    shutil.rmtree(disk / "catalog")
    store = opened()
    assert missing(store) == COUNT
    assert_told(caplog, disk, COUNT)
    assert_serves(store)


def picture(disk):
    """Names and sizes of all files but the identity itself, and the lock, which names the last one who took it."""
    files = (path for path in disk.rglob("*") if not path.name.startswith("kvstore-disk."))
    return {str(path.relative_to(disk)): path.stat().st_size for path in files}


@pytest.mark.parametrize("how", ["truncated", "flipped", "lost"])
def test_the_identity(disk, opened, how):
    """Without it nothing is known of the directory: it is left alone."""
    before = picture(disk)
    DAMAGE[how](disk / "kvstore-disk.json")
    with pytest.raises(ConnectError, match=r"kvstore-disk\.json"):
        opened()
    assert picture(disk) == before


def test_a_node_says_so_and_serves(disk, tmp_path):
    """As all the others, with a process: one line, and the rest."""
    truncate(extent_file(disk), MIB)
    with (
        DiskNode(tmp_path, memory="8MiB", disk_size=DISK_SIZE) as node,
        kvstore.connect(node.url, timeout_ms=30_000) as store,
    ):
        assert 0 < missing(store) < COUNT
        assert len(node.warnings) == 1
        assert "extents-0000.kv" in node.warnings[0]
        assert_serves(store)
        node.kill()
        node.start()
        assert len(node.warnings) == 1, "told once"
