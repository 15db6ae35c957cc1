"""`kvstore fsck` on the disk of a store that was closed, whole or hurt."""

import json
import re
import shutil
import subprocess

import pytest

import kvstore
from kvstore.disks.disk_directory import DiskDirectory
from tests.node_process import BLOCK_BYTES, COMMAND, some_blocks, some_keys

BLOCKS = 200
HEADER_BYTES = 4096
CLEAN, DAMAGED, NOT_CHECKED = 0, 1, 2


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A disk with blocks, as a store leaves it."""
    path = tmp_path_factory.mktemp("fsck") / "disk"
    with kvstore.connect(f"embedded://?memory=16MiB&disk={path}&disk_size=64MiB") as store:
        assert store.put(some_keys(BLOCKS), some_blocks(BLOCKS), durable=True).all_ok
    return path


@pytest.fixture
def disk(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "disk")


def fsck(path, *flags):
    return subprocess.run([*COMMAND, "fsck", str(path), *flags], capture_output=True, text=True, timeout=60)


def fsck_json(path, *flags):
    answer = fsck(path, "--json", *flags)
    assert answer.stderr == ""
    return answer.returncode, json.loads(answer.stdout)


def words(text):
    return " ".join(text.split())


def content(path):
    """Every file of a disk but the lock and RocksDB's own log of what it did."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files if file.name != "kvstore-disk.lock" and file.name[:3] != "LOG"}


def flip_block(disk, number):
    """Changes a byte of a block that is stored at this place of the disk."""
    with (disk / "extents-0000.kv").open("r+b") as file:
        at = HEADER_BYTES + number * BLOCK_BYTES + 100
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def readable(path):
    """How many of the blocks a store on this disk gives back, each with its own bytes."""
    keys, blocks = some_keys(BLOCKS), some_blocks(BLOCKS)
    with kvstore.connect(f"embedded://?memory=16MiB&disk={path}&disk_size=64MiB") as store:
        buffers = some_blocks(BLOCKS, seed=99)
        read = store.get(keys, buffers)
        assert (buffers[read.ok] == blocks[read.ok]).all()
        return int(read.ok.sum())


def test_a_whole_disk_is_clean_and_stays_as_it_is(disk):
    before = content(disk)
    answer = fsck(disk)
    assert answer.returncode == CLEAN, answer.stderr
    assert f"sound {BLOCKS} 800 KiB clean" in words(answer.stdout)
    assert content(disk) == before


def test_as_json(disk):
    status, report = fsck_json(disk)
    assert status == CLEAN
    assert report["clean"] is True
    assert report["sound"] == {"blocks": BLOCKS, "bytes": BLOCKS * BLOCK_BYTES, "pins": 0}
    assert report["disk_id"] == json.loads((disk / "kvstore-disk.json").read_text())["disk_id"]
    assert (report["bytes"], report["findings"], report["rows_removed"]) == (64 << 20, [], 0)


def test_corrupt_blocks_are_named_and_removed_on_request(disk):
    keys = {bytes(key).hex() for key in some_keys(BLOCKS)}
    for number in (3, 50, 51, 120):
        flip_block(disk, number)
    before = content(disk)
    answer = fsck(disk)
    assert answer.returncode == DAMAGED
    assert re.search(r"corrupt 4 16 KiB the bytes do not have their checksum .* and 1 more", words(answer.stdout))
    assert "4 rows are bad; kvstore fsck --repair removes them" in words(answer.stdout)
    assert content(disk) == before

    status, report = fsck_json(disk, "--repair")
    assert (status, report["rows_removed"], report["sound"]["blocks"]) == (DAMAGED, 4, BLOCKS - 4)
    assert {finding["why"] for finding in report["findings"]} == {"corrupt"}
    assert {finding["key"] for finding in report["findings"]} < keys
    assert fsck_json(disk)[0] == CLEAN
    assert readable(disk) == BLOCKS - 4


def test_a_repair_says_what_it_did(disk):
    flip_block(disk, 7)
    assert "1 rows were removed; their blocks are misses now" in words(fsck(disk, "--repair").stdout)


def test_a_repair_of_nothing_changes_no_block(disk):
    assert fsck(disk, "--repair").returncode == CLEAN
    assert readable(disk) == BLOCKS


def test_a_lost_extent_file(disk):
    (disk / "extents-0000.kv").unlink()
    answer = fsck(disk)
    assert answer.returncode == DAMAGED
    assert "extents-0000.kv is missing" in words(answer.stdout)
    assert f"lost {BLOCKS} " in words(answer.stdout)
    assert not (disk / "extents-0000.kv").exists()
    repaired = fsck(disk, "--repair")
    assert repaired.returncode == DAMAGED
    assert "the extent files are whole again" in words(repaired.stdout)
    assert (disk / "extents-0000.kv").stat().st_size == 64 << 20
    assert fsck(disk).returncode == CLEAN
    assert readable(disk) == 0


def test_a_damaged_table_of_the_catalog(disk):
    table = max((disk / "catalog").glob("*.sst"), key=lambda file: file.stat().st_size)
    damaged = bytearray(table.read_bytes())
    damaged[100] ^= 1
    table.write_bytes(damaged)
    before = content(disk)
    status, report = fsck_json(disk)
    assert status == DAMAGED
    assert "a place of the catalog cannot be read" in report["catalog_damage"][0]
    assert 0 < report["sound"]["blocks"] < BLOCKS
    assert content(disk) == before
    status, repaired = fsck_json(disk, "--repair")
    assert status == DAMAGED
    assert repaired["sound"] == report["sound"]
    assert fsck_json(disk)[0] == CLEAN
    assert readable(disk) == report["sound"]["blocks"]


def test_a_catalog_that_cannot_be_opened(disk):
    (disk / "catalog" / "CURRENT").write_text("garbage\n")
    status, report = fsck_json(disk)
    assert status == DAMAGED
    assert "none of its rows can be read before a repair" in report["catalog_damage"][0]
    status, report = fsck_json(disk, "--repair")
    assert (status, report["sound"]["blocks"]) == (DAMAGED, BLOCKS)
    assert fsck_json(disk)[0] == CLEAN


def test_a_disk_that_was_never_used_is_clean(tmp_path):
    DiskDirectory(tmp_path / "disk", create=True).close()
    answer = fsck(tmp_path / "disk")
    assert answer.returncode == CLEAN
    assert "never used" in answer.stdout
    assert not (tmp_path / "disk" / "catalog").exists()


def test_refuses_while_a_node_uses_the_disk(disk):
    owner = DiskDirectory(disk, create=False)
    answer = fsck(disk)
    owner.close()
    assert answer.returncode == NOT_CHECKED
    assert "belongs to one running node" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""


def test_refuses_what_is_no_disk_of_ours(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        answer = fsck(path)
        assert answer.returncode == NOT_CHECKED
        assert answer.stderr.startswith("kvstore fsck: ")
        assert answer.stderr.count("\n") == 1


def test_refuses_extent_files_of_another_disk(disk, tmp_path):
    other = tmp_path / "other"
    with kvstore.connect(f"embedded://?memory=16MiB&disk={other}&disk_size=64MiB"):
        pass
    shutil.copy(other / "extents-0000.kv", disk / "extents-0000.kv")
    answer = fsck(disk)
    assert answer.returncode == NOT_CHECKED
    assert "belongs to another disk" in answer.stderr
