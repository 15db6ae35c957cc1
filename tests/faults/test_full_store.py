"""A store that is full evicts, and refuses, as a status, only what cannot fit at all or not now."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import wait_until
from tests.support.blocks import Bytes, assert_same, block, blocks, chain
from tests.support.node import ALL_LANES, RDMA_SETTING, Node

MIB = 1 << 20
CAPACITY = 32 * MIB
FITTING = CAPACITY // MIB


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    with Node(folder, "--threads", "1", memory="32MiB", settings=RDMA_SETTING) as running:
        yield running


@pytest.fixture
def store(node):
    """A client over the best lane: which block goes does not depend on how it came."""
    with kvstore.connect(node.url, timeout_ms=30_000) as client:
        yield client


def contents_of(names: Bytes) -> list[Bytes]:
    return blocks(names, MIB)


class TestEviction:
    def test_the_oldest_make_room_for_the_newest(self, node, store):
        names = chain("three times what fits", 3 * FITTING)
        for at in range(0, len(names), 8):
            assert store.put(names[at : at + 8], contents_of(names[at : at + 8])).all_ok
        present = store.exists(names)
        assert present.tolist() == [False] * 2 * FITTING + [True] * FITTING
        buffers = np.zeros((8, MIB), np.uint8)
        for at in range(2 * FITTING, 3 * FITTING, 8):
            assert store.get(names[at : at + 8], buffers).all_ok
            assert_same(buffers, np.stack(contents_of(names[at : at + 8])))
        counters = node.counters
        assert counters["used_bytes"] == counters["capacity_bytes"] == CAPACITY
        assert (counters["evicted_blocks"], counters["evicted_bytes"]) == (2 * FITTING, 2 * CAPACITY)
        assert counters["put_busy"] == 0

    def test_what_was_used_stays_and_a_chain_is_eaten_from_its_end(self, node, store):
        used, unused = chain("used", 8), chain("unused", FITTING - 8)
        assert store.put(used, contents_of(used)).all_ok
        assert store.put(unused, contents_of(unused)).all_ok
        assert store.match(used) == 8
        fresh = chain("fresh", 10)
        for at in range(10):
            assert store.put(fresh[at : at + 1], contents_of(fresh[at : at + 1])).all_ok
        assert store.exists(used).all()
        assert store.exists(unused).tolist() == [True] * (FITTING - 18) + [False] * 10
        assert store.match(unused) == FITTING - 18

    def test_a_chain_of_more_than_one_frame_is_eaten_from_its_end_too(self, node, store):
        names = chain("long", 3000)
        assert store.put(names, [bytes(name) * 64 for name in names]).all_ok
        for victims in (100, 1000, 1000, 800):
            before = int(store.exists(names).sum())
            node.evict(victims * 4096)
            assert store.match(names) == store.exists(names).sum() == before - victims

    def test_to_ask_whether_a_block_exists_does_not_keep_it(self, node, store):
        names = chain("asked for", FITTING)
        for at in range(FITTING):
            assert store.put(names[at : at + 1], contents_of(names[at : at + 1])).all_ok
        assert store.touch(names[1:2]).all()
        assert store.exists(names[:1]).all()
        node.evict((FITTING - 1) * MIB)
        assert store.exists(names).tolist() == [False, True] + [False] * (FITTING - 2)

    def test_sizes_that_do_not_go_together(self, node, patient):
        """Small blocks all over the store, every other one deleted: what is left must go for a large one."""
        small = chain("small", 1024)
        assert patient.put(small, [bytes(name) * 1000 for name in small]).all_ok
        patient.delete(small[::2].copy())
        for number, size in enumerate((MIB, 30 * MIB, 3 * MIB, 32 * MIB, 1)):
            name = chain(f"large {number}", 1)
            assert patient.put(name, [block(name[0], size)]).all_ok
            buffer = np.zeros(size, np.uint8)
            assert patient.get(name, [buffer]).all_ok
            assert_same(buffer, block(name[0], size))
        assert node.counters["put_busy"] == 0

    def test_a_batch_of_all_that_there_is(self, node, patient):
        names = chain("everything", FITTING)
        assert patient.put(names, contents_of(names)).all_ok
        buffers = np.zeros((FITTING, MIB), np.uint8)
        got = patient.get(names, buffers)
        assert got.all_ok, got
        assert_same(buffers, np.stack(contents_of(names)))


class TestRefusals:
    def test_what_can_never_fit(self, node, patient):
        names = chain("too large", 3)
        small = contents_of(names)
        put = patient.put(names, [small[0], np.zeros(CAPACITY + 1, np.uint8), small[2]])
        assert put.status.tolist() == [Status.OK, Status.TOO_LARGE, Status.OK]
        assert patient.exists(names).tolist() == [True, False, True]
        counters = node.counters
        assert (counters["put_too_large"], counters["reserved_bytes"], counters["evicted_blocks"]) == (1, 0, 0)

    def test_a_block_above_the_limit_of_the_node(self, tmp_path):
        with Node(tmp_path, "--max-block", "64KiB", settings=RDMA_SETTING) as node:
            for lane in ALL_LANES:
                with kvstore.connect(node.url, lane=lane, timeout_ms=30_000) as store:
                    put = store.put(chain(f"limit {lane}", 2), [bytes(65_536), bytes(65_537)])
                    assert put.status.tolist() == [Status.OK, Status.TOO_LARGE], lane

    @pytest.mark.parametrize("writer_lane", ALL_LANES)
    def test_everything_is_borrowed(self, node, writer_lane):
        """Two readers hold half each, the most that one may: no room for anybody, until one lets go."""
        halves = [chain(f"half {number}", FITTING // 2) for number in range(2)]
        fresh = chain("fresh", 4)
        with contextlib.ExitStack() as opened:
            readers = [
                opened.enter_context(kvstore.connect(node.url, lane="mapped", timeout_ms=30_000)) for _ in halves
            ]
            writer = opened.enter_context(kvstore.connect(node.url, lane=writer_lane, timeout_ms=30_000))
            borrows = []
            for reader, half in zip(readers, halves, strict=True):
                assert reader.put(half, contents_of(half)).all_ok
                borrows.append(reader.borrow(half))
                assert borrows[-1].all_ok, borrows[-1]
            assert node.counters["leased_bytes"] == CAPACITY
            assert writer.put(fresh, contents_of(fresh)).status.tolist() == [Status.BUSY] * 4
            assert node.evict(CAPACITY) == 0
            assert node.counters["put_busy"] == 4
            # What is there can still be read and written again, and nothing was harmed by the refusals.
            assert writer.put(halves[0][:1], contents_of(halves[0][:1])).cause.tolist() == [Status.EXISTS]
            for borrow, half in zip(borrows, halves, strict=True):
                for view, expected in zip(borrow.views, contents_of(half), strict=True):
                    assert_same(view, expected)
            borrows[0].release()
            wait_until(lambda: writer.put(fresh, contents_of(fresh)).all_ok, "there is room again")
            buffers = np.zeros((4, MIB), np.uint8)
            assert writer.get(fresh, buffers).all_ok
            assert_same(buffers, np.stack(contents_of(fresh)))
            for view, expected in zip(borrows[1].views, contents_of(halves[1]), strict=True):
                assert_same(view, expected)
            borrows[1].release()

    def test_one_reader_cannot_hold_everything(self, node):
        names = chain("greedy", FITTING)
        with (
            kvstore.connect(node.url, lane="mapped", timeout_ms=30_000) as greedy,
            kvstore.connect(node.url, timeout_ms=30_000) as other,
        ):
            assert greedy.put(names, contents_of(names)).all_ok
            borrow = greedy.borrow(names)
            assert borrow.ok.sum() == FITTING // 2
            assert set(borrow.cause[~borrow.ok].tolist()) == {Status.BUSY}
            fresh = chain("beside the greedy", FITTING // 2)
            assert other.put(fresh, contents_of(fresh)).all_ok
            for view, expected in zip(borrow.views, contents_of(names), strict=True):
                assert view is None or np.array_equal(view, expected)
            borrow.release()
