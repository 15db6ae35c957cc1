"""Blocks that only the disk has, over each lane: gets larger than memory, deadlines, and clients that die meanwhile."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.faults.client_worker import COUNT, SIZE, keys_of
from tests.node_process import GRACE_S, LANES, wait_until
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.disk_node import CONFIG, MIB, DiskNode
from tests.support.worker import Worker

MODULE = "tests.faults.client_worker"
ALL = 1 << 40
MEMORY_MIB = 32
SLOW_MS = 300
NOTHING_HELD = {"reserved_bytes": 0, "leased_bytes": 0, "leases": 0, "gets_waiting": 0}
# What a node may still do for a client that is gone.
SETTLING_S = 20.0


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with DiskNode(tmp_path_factory.mktemp("node"), memory=f"{MEMORY_MIB}MiB", disk_size="256MiB") as running:
        yield running
        assert "Traceback" not in running.log
        counters = running.counters
        assert counters["checksum_errors"] == counters["nvme_wrong_checksums"] == counters["protocol_errors"] == 0


@pytest.fixture(scope="module")
def slow_node(tmp_path_factory):
    """Its disk takes its time over every read."""
    folder = tmp_path_factory.mktemp("slow")
    with DiskNode(folder, disk_size="64MiB").fail_at(f"disk.read=pause:{SLOW_MS}") as running:
        yield running


@pytest.fixture(params=LANES)
def lane(request):
    return request.param


@pytest.fixture
def store(node, lane):
    with kvstore.connect(node.url, lane=lane, config=CONFIG) as client:
        yield client
        settled(node)


def settled(node):
    node.wait_for_counters("nothing is held any more", SETTLING_S, **NOTHING_HELD)


def make_cold(node, store, names, size):
    if not store.exists(names).all():
        assert store.put(names, blocks(names, size)).all_ok
    assert store.flush(timeout_ms=30_000)
    settled(node)
    node.evict(ALL)
    assert node.counters["blocks"] == 0
    assert store.exists(names).all()


class TestMoreThanMemory:
    NAMES = chain("cold", 3 * MEMORY_MIB // 2)

    def test_a_get(self, node, store):
        """In turns, each of which takes a part of memory and gives it back."""
        make_cold(node, store, self.NAMES, MIB)
        buffers = np.zeros((len(self.NAMES), MIB), np.uint8)
        got = store.get(self.NAMES, buffers)
        assert got.all_ok, got
        for buffer, content in zip(buffers, blocks(self.NAMES, MIB), strict=True):
            assert_same(buffer, content)

    def test_a_borrow(self, node, store):
        """The beginning of the chain is lent, as much of it as may be held at once."""
        make_cold(node, store, self.NAMES, MIB)
        with store.borrow(self.NAMES) as views:
            lent = [view is not None for view in views]
            assert MEMORY_MIB // 4 <= sum(lent) == lent.index(False)
            for view, name in zip(views[: sum(lent)], self.NAMES, strict=False):
                assert_same(view, block(name, MIB))

    def test_some_readers_at_once(self, node, store, lane):
        make_cold(node, store, self.NAMES, MIB)
        failures = []

        def read(seed):
            try:
                order = random.Random(seed)
                with kvstore.connect(node.url, lane=lane, config=CONFIG) as mine:
                    buffers = np.zeros((8, MIB), np.uint8)
                    for _ in range(6):
                        names = self.NAMES[sorted(order.sample(range(len(self.NAMES)), 8))]
                        got = mine.get(names, buffers)
                        assert got.all_ok, got
                        for buffer, content in zip(buffers, blocks(names, MIB), strict=True):
                            assert_same(buffer, content)
            except BaseException as error:
                failures.append(error)

        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert not failures, failures


class TestWaiting:
    def test_for_blocks_of_which_some_are_cold(self, node, store):
        cold, late = chain(f"cold {store}", 2), chain(f"late {store}", 2)
        make_cold(node, store, cold, 100_000)
        names = np.concatenate((cold, late))
        buffers = np.zeros((4, 100_000), np.uint8)
        results = []
        reader = threading.Thread(
            target=lambda: results.append(store.get(names, buffers, wait_ms=20_000, timeout_ms=25_000))
        )
        reader.start()
        wait_until(lambda: node.counters["gets_waiting"] == 1, "the get waits")
        with kvstore.connect(node.url, config=CONFIG) as writer:
            assert writer.put(late, blocks(late, 100_000)).all_ok
        reader.join()
        assert results[0].all_ok, results[0]
        assert_same(buffers, np.stack(blocks(names, 100_000)))

    def test_in_vain_brings_what_is_there(self, node, store):
        cold = chain(f"in vain {store}", 2)
        make_cold(node, store, cold, 100_000)
        names = np.concatenate((cold, chain("never", 1)))
        buffers = np.zeros((3, 100_000), np.uint8)
        got = store.get(names, buffers, wait_ms=100)
        assert got.status.tolist() == [Status.OK, Status.OK, Status.MISS]
        assert_same(buffers[:2], np.stack(blocks(cold, 100_000)))


class TestDeadlines:
    def test_shorter_than_the_answer_of_the_disk(self, slow_node, lane):
        names = chain(f"slow {lane}", 4)
        with kvstore.connect(slow_node.url, lane=lane, config=CONFIG) as store:
            make_cold(slow_node, store, names, 100_000)
            buffers = np.full((4, 100_000), 0xEE, np.uint8)
            started_s = time.monotonic()
            got = store.get(names, buffers, timeout_ms=SLOW_MS // 4)
            assert time.monotonic() - started_s < SLOW_MS / 4000 + GRACE_S
            assert got.status.tolist() == [Status.MISS] * 4
            assert set(got.cause.tolist()) <= {Status.TIMEOUT, Status.BUSY}
            held = buffers.copy()
            settled(slow_node)
            assert (buffers == held).all(), "memory that was handed back is written"
            got = store.get(names, buffers)
            assert got.all_ok, got
            assert_same(buffers, np.stack(blocks(names, 100_000)))

    def test_others_do_not_wait_for_it(self, slow_node, lane):
        """A get of what is in memory goes past those that wait for the disk."""
        cold, warm = chain(f"behind {lane}", 3), chain(f"warm {lane}", 1)
        with (
            kvstore.connect(slow_node.url, lane=lane, config=CONFIG) as store,
            kvstore.connect(slow_node.url, lane=lane, config=CONFIG) as other,
        ):
            make_cold(slow_node, store, cold, 100_000)
            assert other.put(warm, blocks(warm, 100_000)).all_ok
            buffers = np.zeros((3, 100_000), np.uint8)
            reader = threading.Thread(target=lambda: store.get(cold, buffers))
            reader.start()
            wait_until(lambda: slow_node.counters["reserved_bytes"] > 0, "cold reads are under way")
            buffer = np.zeros((1, 100_000), np.uint8)
            assert other.get(warm, buffer).all_ok
            assert slow_node.counters["reserved_bytes"] > 0, "it waited for the reads"
            reader.join()
            settled(slow_node)

    def test_deleted_while_it_is_read(self, slow_node, lane):
        names = chain(f"deleted {lane}", 2)
        with (
            kvstore.connect(slow_node.url, lane=lane, config=CONFIG) as store,
            kvstore.connect(slow_node.url, config=CONFIG) as other,
        ):
            make_cold(slow_node, store, names, 100_000)
            buffers = np.zeros((2, 100_000), np.uint8)
            results = []
            reader = threading.Thread(target=lambda: results.append(store.get(names, buffers)))
            reader.start()
            wait_until(lambda: slow_node.counters["reserved_bytes"] > 0, "cold reads are under way")
            other.delete(names)
            assert not other.exists(names).any()
            reader.join()
            for buffer, content, ok in zip(buffers, blocks(names, 100_000), results[0].ok, strict=True):
                assert_same(buffer, content if ok else np.zeros(100_000, np.uint8))
            settled(slow_node)
            assert not other.exists(names).any(), "a read has brought back what was deleted"


class TestClientsThatDie:
    @pytest.mark.parametrize("verb", ["get", "borrow"])
    def test_in_the_middle_of_a_cold_get(self, node, store, lane, verb):
        """Leases and room come back, and the next one is served."""
        moments = random.Random(37)
        name = f"dies {lane} {verb}"
        keys = keys_of(name, 0)
        assert store.put(keys, blocks(keys, SIZE)).all_ok
        for _ in range(2):
            make_cold(node, store, keys, SIZE)
            with Worker(MODULE, verb, node.url, lane, name) as worker:
                if verb == "get":
                    assert worker.next_line() == "ready"
                    time.sleep(moments.uniform(0, 0.02))
                else:
                    wait_until(lambda: node.counters["reserved_bytes"] > 0 or node.counters["leases"] > 0, "it reads")
                worker.kill()
            settled(node)
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        got = store.get(keys, buffers)
        assert got.all_ok, got
        assert_same(buffers, np.stack(blocks(keys, SIZE)))
        store.delete(keys)
