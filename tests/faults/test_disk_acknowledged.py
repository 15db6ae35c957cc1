"""The table "What acknowledged means" of docs/ARCHITECTURE.md, a test a cell: rows are ids, columns are classes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import wait_until
from tests.support.blocks import Bytes, assert_same, blocks, chain
from tests.support.disk_node import CONFIG, DiskNode, rounded
from tests.support.node import Node

SIZE = 100_000
COUNT = 5
ALL = 1 << 40
HEALING_S = 20.0
fresh = itertools.count()


@dataclasses.dataclass(frozen=True)
class Row:
    node: Node
    durable: bool
    admission: str  # "" without a disk

    def put(self, store: kvstore.Client) -> Bytes:
        """A chain that was acknowledged as OK."""
        names = chain(f"acknowledged {next(fresh)}", COUNT)
        put = store.put(names, blocks(names, SIZE), durable=self.durable)
        assert put.cause.tolist() == [Status.OK] * COUNT
        return names

    def await_on_disk(self, names: Bytes, before: dict[str, int]) -> None:
        added = len(names)
        self.node.wait_for_counters("the blocks are on disk", nvme_blocks=before["nvme_blocks"] + added)

    def come_back(self, store: kvstore.Client) -> None:
        self.node.kill()
        self.node.start()
        wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 20)


@pytest.fixture(scope="module", params=["no disk", "eager", "after-first-reuse", "off", "durable=True"])
def row(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    if request.param == "no disk":
        with Node(folder, "--threads", "1", memory="16MiB") as node:
            yield Row(node, durable=False, admission="")
        return
    durable = request.param == "durable=True"
    # What admission says must not matter to who asks for durability.
    admission = "off" if durable else request.param
    with DiskNode(folder, settings=f'admission = "{admission}"') as node:
        yield Row(node, durable=durable, admission=admission)


@pytest.fixture
def store(row):
    with kvstore.connect(row.node.url, config=CONFIG) as client:
        yield client


def assert_there(store, names):
    buffers = np.zeros((len(names), SIZE), np.uint8)
    got = store.get(names, buffers)
    assert got.all_ok, got
    for buffer, content in zip(buffers, blocks(names, SIZE), strict=True):
        assert_same(buffer, content)


def assert_evictable(row, store, names):
    """Evicted as soon as the client's own leases on them, given back out of sight, have ended."""

    def is_gone():
        row.node.evict(ALL)
        return not store.exists(names).any()

    wait_until(is_gone, "the blocks are evicted")
    assert_gone(store, names)


def assert_gone(store, names):
    assert not store.exists(names).any()
    buffers = np.full((len(names), SIZE), 0xEE, np.uint8)
    assert store.get(names, buffers).cause.tolist() == [Status.MISS] * len(names)
    assert (buffers == 0xEE).all()


def disk_of(row):
    if not row.admission:
        pytest.skip("the row has no disk")
    return row.node.disk


class TestEvictedFromDram:
    def test_at_once(self, row, store):
        before = row.node.counters
        names = row.put(store)
        if row.durable:
            row.node.evict(ALL)
            assert_there(store, names)
        elif row.admission == "eager":
            # It cannot leave before it has arrived.
            row.node.evict(ALL)
            assert_there(store, names)
            row.await_on_disk(names, before)
            row.node.evict(ALL)
            assert_there(store, names)
        else:
            assert row.node.evict(ALL) >= COUNT * rounded(SIZE)
            assert_gone(store, names)

    def test_used_before(self, row, store):
        before = row.node.counters
        names = row.put(store)
        assert_there(store, names)
        kept = row.durable or row.admission in {"eager", "after-first-reuse"}
        if not kept:
            assert_evictable(row, store, names)
            return
        row.await_on_disk(names, before)
        row.node.evict(ALL)
        assert_there(store, names)

    def test_flushed_before(self, row, store):
        names = row.put(store)
        assert store.flush() == bool(row.admission)
        if row.admission:
            row.node.evict(ALL)
            assert_there(store, names)
        else:
            assert_evictable(row, store, names)


class TestKilled:
    def test_after_a_while_and_at_once(self, row, store):
        """Not flushed, and with nobody asking."""
        before = row.node.counters
        earlier = row.put(store)
        if row.admission == "after-first-reuse":
            assert_there(store, earlier)
        kept = row.durable or row.admission in {"eager", "after-first-reuse"}
        if kept:
            row.await_on_disk(earlier, before)
        latest = row.put(store)
        row.come_back(store)
        (assert_there if kept else assert_gone)(store, earlier)
        if row.durable:
            assert_there(store, latest)
        elif row.admission == "eager":  # what had arrived
            assert_there(store, latest[: store.match(latest)])
        else:
            assert_gone(store, latest)

    def test_after_a_flush(self, row, store):
        names = row.put(store)
        flushed = store.flush() or store.flush()  # the first answers for what an earlier test let die
        assert flushed == bool(row.admission)
        row.come_back(store)
        (assert_there if row.admission else assert_gone)(store, names)


class TestDiskFailingSince:
    @pytest.fixture
    def failing(self, row, store):
        """The disk is away, and the node knows."""
        disk = disk_of(row)
        away = disk.with_name("away")
        disk.rename(away)
        probe = chain(f"failing {next(fresh)}", 1)
        assert store.put(probe, blocks(probe, SIZE), durable=True).cause.tolist() == [Status.NOT_DURABLE]
        assert row.node.counters["nvme_disks_in_trouble"] == 1
        yield lambda: away.rename(disk)
        if away.exists():
            away.rename(disk)
        row.node.wait_for_counters("the disk is healthy", HEALING_S, nvme_disks_in_trouble=0)

    def put(self, row, store):
        """As `Row.put`, with the answer that the table has for durable puts."""
        names = chain(f"failing {next(fresh)}", COUNT)
        put = store.put(names, blocks(names, SIZE), durable=row.durable)
        assert put.cause.tolist() == [Status.NOT_DURABLE if row.durable else Status.OK] * COUNT
        return names

    def test_in_dram_until_evicted(self, row, store, failing):
        names = self.put(row, store)
        assert_there(store, names)
        assert_evictable(row, store, names)

    def test_saved_when_the_disk_works_again(self, row, store, failing):
        names = self.put(row, store)
        assert_there(store, names)
        failing()
        row.node.wait_for_counters("what waited is saved", HEALING_S, nvme_disks_in_trouble=0, write_queue_blocks=0)
        if row.admission == "after-first-reuse":
            before = row.node.counters
            assert_there(store, names)
            row.await_on_disk(names, before)
        elif row.admission == "eager":
            wait_until(lambda: row.node.counters["write_queue_blocks"] == 0, "all is saved")
        else:
            assert store.flush() or store.flush()
        row.come_back(store)
        assert_there(store, names)
