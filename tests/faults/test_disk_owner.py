"""A disk directory belongs to one running node, and one that is not ours, or of tomorrow, is left as it is."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest

import kvstore
from kvstore.errors import ConnectError, InvalidArgumentError
from tests.node_process import COMMAND
from tests.support.blocks import blocks, chain
from tests.support.disk_node import CONFIG, DiskNode

SIZE = 50_000
DISK_SIZE = "16MiB"
# By then RocksDB has opened the catalog and kept its own house; no row has changed.
EXTENTS = "extents-*"


def serve(folder, disk):
    """What a node on the directory says when it is refused."""
    flags = ["--listen", "127.0.0.1:0", "--memory", "8MiB", "--disk", str(disk), "--disk-size", DISK_SIZE]
    ended = subprocess.run([*COMMAND, "serve", *flags], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stderr
    assert "ready" not in ended.stdout
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def embedded(disk):
    return kvstore.connect(f"embedded://?memory=8MiB&disk={disk}&disk_size={DISK_SIZE}", timeout_ms=30_000)


def picture(folder, files):
    """What files with such names hold, but for the lock file, which names the last one who took it."""
    found = (path for path in sorted(folder.rglob(files)) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def owner(tmp_path_factory):
    with DiskNode(tmp_path_factory.mktemp("owner"), memory="8MiB", disk_size=DISK_SIZE) as node:
        yield node


class TestOneOwner:
    def test_a_second_node_says_whose_it_is_and_ends(self, owner, tmp_path):
        said = serve(tmp_path, owner.disk)
        assert f"belongs to one running node (process {owner.pid})" in said
        assert str(owner.disk) in said
        self.check(owner, "second node")

    def test_an_embedded_store_says_whose_it_is(self, owner):
        with pytest.raises(ConnectError, match=rf"belongs to one running node \(process {owner.pid}\)"):
            embedded(owner.disk)
        self.check(owner, "embedded")

    def test_an_embedded_store_is_an_owner_too(self, tmp_path):
        with embedded(tmp_path / "disk"):
            said = serve(tmp_path, tmp_path / "disk")
            assert "belongs to one running node" in said
            with pytest.raises(ConnectError, match="belongs to one running node"):
                embedded(tmp_path / "disk")
        with embedded(tmp_path / "disk") as store:
            assert store.flush()

    def test_a_disk_that_is_named_twice(self, tmp_path):
        disk = tmp_path / "disk"
        with pytest.raises(InvalidArgumentError, match="more than once"):
            kvstore.connect(f"embedded://?memory=8MiB&disk={disk},{disk}&disk_size=32MiB")

    def test_fsck_of_a_running_node(self, owner):
        ended = subprocess.run([*COMMAND, "fsck", str(owner.disk)], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2
        assert f"process {owner.pid}" in ended.stderr
        self.check(owner, "fsck")

    def test_the_lock_of_a_killed_node_does_not_block(self, owner):
        owner.kill()
        with embedded(owner.disk) as store:
            assert store.flush()
        owner.start()
        self.check(owner, "after kill -9")

    def check(self, owner, name):
        """The owner has noticed nothing."""
        names = chain(name, 2)
        with kvstore.connect(owner.url, config=CONFIG) as store:
            assert store.put(names, blocks(names, SIZE), durable=True).all_ok
        assert owner.counters["nvme_disks_in_trouble"] == 0


class TestStrangers:
    @pytest.fixture
    def disk(self, tmp_path):
        with embedded(tmp_path / "disk") as store:
            names = chain("strangers", 2)
            assert store.put(names, blocks(names, SIZE), durable=True).all_ok
        return tmp_path / "disk"

    def assert_left_alone(self, folder, disk, message, files="*"):
        before = picture(disk, files)
        assert message in serve(folder, disk)
        with pytest.raises(ConnectError, match=message):
            embedded(disk)
        assert picture(disk, files) == before

    def test_a_newer_format(self, tmp_path, disk):
        identity = json.loads((disk / "kvstore-disk.json").read_text())
        identity |= {"format_version": identity["format_version"] + 1, "created_by": "kvstore 9.0"}
        (disk / "kvstore-disk.json").write_text(json.dumps(identity))
        self.assert_left_alone(tmp_path, disk, "install a newer kvstore")

    def test_a_foreign_directory(self, tmp_path):
        disk = tmp_path / "photos"
        disk.mkdir()
        (disk / "holiday.jpg").write_bytes(b"\xff\xd8")
        self.assert_left_alone(tmp_path, disk, "is not a disk directory of kvstore")

    def test_extent_files_of_another_disk(self, tmp_path, disk):
        with embedded(tmp_path / "other"):
            pass
        (tmp_path / "other" / "extents-0000.kv").replace(disk / "extents-0000.kv")
        self.assert_left_alone(tmp_path, disk, "another disk", EXTENTS)

    def test_a_disk_that_would_shrink(self, tmp_path):
        disk = tmp_path / "disk"
        with kvstore.connect(f"embedded://?memory=8MiB&disk={disk}&disk_size=32MiB"):
            pass
        self.assert_left_alone(tmp_path, disk, "give at least its size", EXTENTS)

    def test_a_parent_that_is_missing(self, tmp_path):
        assert "is it mounted?" in serve(tmp_path, tmp_path / "not mounted" / "disk")
        assert not (tmp_path / "not mounted").exists()
