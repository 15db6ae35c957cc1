"""Nodes and embedded stores that come back on the disks they had: every durable block, byte for byte."""

import gc
import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import kvstore
from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from kvstore.errors import ConfigError, ConnectError
from tests.node_process import BLOCK_BYTES, NodeProcess, some_blocks, some_keys, wait_until
from tests.support.file_systems import small_file_system
from tests.test_server import serve_and_fail

BLOCKS = 300
MIB = 1 << 20


@pytest.fixture
def disks(tmp_path):
    """Two disks, as blocks are spread over them."""
    return [tmp_path / "disk-0", tmp_path / "disk-1"]


def node_on(tmp_path, disks):
    return NodeProcess(tmp_path, disks=disks)


def put_all(store, durable=False):
    assert store.put(some_keys(BLOCKS), some_blocks(BLOCKS), durable=durable).all_ok


def check_all(store):
    buffers = np.zeros((BLOCKS, BLOCK_BYTES), np.uint8)
    assert store.match(some_keys(BLOCKS)) == BLOCKS
    assert store.get(some_keys(BLOCKS), buffers).all_ok
    assert (buffers == some_blocks(BLOCKS)).all()


class TestServe:
    def test_says_which_disks_it_has(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            line = f", memory 64 MiB, disk 256 MiB in {disks[0]},{disks[1]}\n"
            wait_until(lambda: line in node.log, "the node says so, which it does once it has answered")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_asked_to_end_it_keeps_everything(self, tmp_path, disks, number):
        with node_on(tmp_path, disks) as node:
            with kvstore.connect(node.url) as store:
                put_all(store)
            node.signal(number)
            assert node.wait() == 0, node.log
            node.start()
            recovered = re.search(r"(\d+) blocks \(.*\) recovered in \d+\.\d+ s", node.log)
            assert recovered is not None, node.log
            assert int(recovered[1]) == BLOCKS
            with kvstore.connect(node.url) as store:
                check_all(store)
            assert "Traceback" not in node.log

    def test_killed_it_keeps_what_was_durable(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            for _ in range(3):
                with kvstore.connect(node.url) as store:
                    put_all(store, durable=True)
                node.kill()
                node.start()
                with kvstore.connect(node.url) as store:
                    check_all(store)

    def test_what_was_deleted_stays_away(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            with kvstore.connect(node.url) as store:
                put_all(store, durable=True)
                assert store.delete(some_keys(BLOCKS)[100:]).all()
                assert store.flush()
            node.kill()
            node.start()
            with kvstore.connect(node.url) as store:
                assert store.match(some_keys(BLOCKS)) == 100

    def test_disks_know_each_other_by_their_names_only(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node, kvstore.connect(node.url) as store:
            put_all(store, durable=True)
        with node_on(tmp_path, disks[::-1]) as node, kvstore.connect(node.url) as store:
            check_all(store)

    def test_a_second_node_on_the_same_disk_fails_at_once(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            second = serve_and_fail("--listen", "127.0.0.1:0", "--disk", str(disks[1]), "--disk-size", "64MiB")
            assert second.returncode == 1
            assert second.stderr.count("\n") == 1, second.stderr
            assert f"{disks[1]} belongs to one running node (process {node.pid})" in second.stderr

    def test_a_disk_cannot_shrink(self, tmp_path, disks):
        with node_on(tmp_path, disks):
            pass
        refused = serve_and_fail("--listen", "127.0.0.1:0", "--disk", str(disks[0]), "--disk-size", "64MiB")
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert "cannot shrink" in refused.stderr

    def test_a_disk_may_grow(self, tmp_path, disks):
        with NodeProcess(tmp_path, disks=disks[:1], disk_size="64MiB") as node, kvstore.connect(node.url) as store:
            put_all(store, durable=True)
        with NodeProcess(tmp_path, disks=disks[:1], disk_size="128MiB") as node, kvstore.connect(node.url) as store:
            check_all(store)
            assert store.stats()["node"]["nvme_capacity_bytes"] == 128 * MIB

    def test_more_than_the_disk_has_is_refused(self, tmp_path):
        refused = serve_and_fail("--listen", "127.0.0.1:0", "--disk", str(tmp_path / "d"), "--disk-size", "900TiB")
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1, refused.stderr

    def test_a_lost_extent_file_costs_its_disk_only(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            with kvstore.connect(node.url) as store:
                put_all(store, durable=True)
            node.kill()
            (disks[0] / "extents-0000.kv").unlink()
            node.start()
            assert re.search(r"disk \S+disk-0: .*extents-0000.kv is missing", node.log)
            assert re.search(r"disk \S+disk-0: 0 rows recovered; rows dropped: \d+ lost", node.log)
            with kvstore.connect(node.url) as store:
                buffers = np.zeros((BLOCKS, BLOCK_BYTES), np.uint8)
                found = store.get(some_keys(BLOCKS), buffers).ok
                assert 0 < found.sum() < BLOCKS
                assert (buffers[found] == some_blocks(BLOCKS)[found]).all()
                put_all(store, durable=True)
            node.kill()
            node.start()
            assert node.log.count("is missing") == 1
            with kvstore.connect(node.url) as store:
                check_all(store)

    def test_a_lost_catalog_costs_its_disk_only(self, tmp_path, disks):
        with node_on(tmp_path, disks) as node:
            with kvstore.connect(node.url) as store:
                put_all(store, durable=True)
            node.kill()
            (disks[1] / "catalog" / "CURRENT").write_text("garbage")
            node.start()
            assert "the catalog was damaged" in node.log
            with kvstore.connect(node.url) as store:
                check_all(store)


class TestVanishedDirectory:
    def test_nothing_is_durable_there(self, tmp_path, disks):
        settings = tmp_path / "kvstore.toml"
        settings.write_text('[node]\nshutdown_flush_ms = "200ms"\n')
        with NodeProcess(tmp_path, "--config", str(settings), disks=disks[:1]) as node:
            with kvstore.connect(node.url) as store:
                put_all(store, durable=True)
                shutil.rmtree(disks[0])
                late = store.put(some_keys(4, seed=50), some_blocks(4), durable=True, timeout_ms=3000)
                assert not late.ok.any()
                check_all(store)
                assert f"disk directory {disks[0]} is gone" in node.log
            assert node.stop() == 0
            assert "not all blocks are on disk" in node.log
            assert not disks[0].exists()


class TestFullCatalog:
    def test_nothing_is_durable_until_there_is_space_again(self, tmp_path):
        with small_file_system(tmp_path / "mount", 96 * MIB) as mounted:
            disk = mounted.path / "disk"
            with NodeProcess(tmp_path, disks=[disk], disk_size="64MiB") as node:
                with kvstore.connect(node.url) as store:
                    put_all(store, durable=True)
                    ballast = mounted.fill()
                    refused = self._write_until_refused(store)
                    assert "No space left on device" in node.log
                    # Memory goes on to serve, and a plain put is taken.
                    assert store.put(some_keys(4, seed=50), some_blocks(4)).all_ok
                    check_all(store)
                    ballast.unlink()
                    wait_until(lambda: "the catalog can be written again" in node.log, "it recovers", 30)
                    keys, blocks = refused
                    assert store.put(keys, blocks, durable=True, timeout_ms=10_000).all_ok
                node.kill()
                node.start()
                with kvstore.connect(node.url) as store:
                    check_all(store)
                    buffers = np.zeros_like(blocks)
                    assert store.get(keys, buffers).all_ok
                    assert (buffers == blocks).all()

    def _write_until_refused(self, store):
        """Durable puts, deleted again at once so that only the catalog's log grows; returns those not durable."""
        end_s = time.monotonic() + 60
        seed = 1000
        while time.monotonic() < end_s:
            seed += 1
            keys, blocks = some_keys(500, seed), some_blocks(500, seed)
            if not store.put(keys, blocks, durable=True, timeout_ms=3000).all_ok:
                return keys, blocks
            store.delete(keys)
        pytest.fail("the disk was never full")


class TestEmbedded:
    def test_keeps_everything_over_a_close(self, tmp_path):
        url = f"embedded://?memory=16MiB&disk={tmp_path / 'disk'}&disk_size=64MiB"
        with kvstore.connect(url) as store:
            put_all(store)
        with kvstore.connect(url) as store:
            check_all(store)

    def test_a_dropped_store_keeps_everything_and_gives_its_disk_back(self, tmp_path):
        url = f"embedded://?memory=16MiB&disk={tmp_path / 'disk'}&disk_size=64MiB"
        store = kvstore.connect(url)
        put_all(store)
        del store
        with kvstore.connect(url) as store:
            check_all(store)

    def test_a_store_that_its_own_thread_collects(self, tmp_path, monkeypatch):
        url = f"embedded://?memory=16MiB&disk={tmp_path / 'disk'}&disk_size=64MiB"
        holder = [kvstore.connect(url)]
        commit = Catalog.commit

        def collect_and_commit(catalog, operations):
            if threading.current_thread() is not threading.main_thread():
                holder.clear()
                gc.collect()
            commit(catalog, operations)

        monkeypatch.setattr(Catalog, "commit", collect_and_commit)
        put_all(holder[0])
        wait_until(lambda: not holder, "the store is dropped")
        monkeypatch.undo()

        def is_free():
            try:
                DiskDirectory(tmp_path / "disk", create=False).close()
            except ConfigError:
                return False
            return True

        wait_until(is_free, "the store is closed")
        with kvstore.connect(url) as store:
            check_all(store)

    def test_a_forked_child_does_not_keep_the_disk(self, tmp_path):
        url = f"embedded://?memory=16MiB&disk={tmp_path / 'disk'}&disk_size=64MiB"
        store = kvstore.connect(url)
        put_all(store)
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            store.close()
            with kvstore.connect(url) as again:
                check_all(again)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_two_on_one_disk(self, tmp_path):
        url = f"embedded://?memory=16MiB&disk={tmp_path / 'disk'}&disk_size=64MiB"
        with kvstore.connect(url), pytest.raises(ConnectError, match="belongs to one running node"):
            kvstore.connect(url)

    def test_what_cannot_be_opened_leaves_no_lock(self, tmp_path):
        good, bad = tmp_path / "good", tmp_path / "bad"
        bad.mkdir()
        (bad / "thesis.tex").write_text("")
        with pytest.raises(ConnectError, match="thesis.tex"):
            kvstore.connect(f"embedded://?memory=16MiB&disk={good},{bad}&disk_size=128MiB")
        with kvstore.connect(f"embedded://?memory=16MiB&disk={good}&disk_size=64MiB") as store:
            put_all(store, durable=True)
