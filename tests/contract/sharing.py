"""Blocks used in place, blocks waited for, and many at work at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvstore import Status
from tests.contract.base import ContractBase, counters
from tests.node_process import wait_until
from tests.support.blocks import assert_same, block, blocks, chain

MIB = 1 << 20
SIZE = 70_001
# Longer than any machine needs for what is waited for; ends a test that would hang.
PATIENCE_MS = 30_000


class Borrowing(ContractBase):
    def test_views(self, store, keys):
        names = keys(5)
        contents = [block(name, size) for name, size in zip(names, (1, 4096, SIZE, 2 * MIB + 5, 65_000), strict=True)]
        assert store.put(names[:4], contents[:4]).all_ok
        with store.borrow(names) as views:
            assert views[4] is None
            for view, expected in zip(views[:4], contents, strict=False):
                assert view.dtype == np.uint8
                assert view.ndim == 1
                assert_same(view, expected)
                assert not view.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    view[0] = 1

    def test_leases_end_with_the_borrow(self, store, keys):
        names = keys(3)
        assert store.put(names, blocks(names, SIZE)).all_ok
        wait_until(lambda: counters(store)["leases"] == 0, "a disk has what it writes")
        held = []
        with store.borrow(names), store.borrow(names[:1]):
            held.append(counters(store)["leases"])
        assert held[0] in {0, 4}, "in place, or in a receive buffer"
        wait_until(lambda: counters(store)["leases"] == counters(store)["leased_bytes"] == 0, "the leases end")

    def test_an_error_in_the_body_ends_the_leases_too(self, store, keys):
        names = keys(1)
        assert store.put(names, blocks(names, SIZE)).all_ok
        with pytest.raises(ZeroDivisionError), store.borrow(names):
            _ = 1 // 0
        wait_until(lambda: counters(store)["leases"] == 0, "the lease ends")

    def test_views_survive_deletion(self, store, second, keys):
        names = keys(4)
        contents = blocks(names, SIZE)
        before = counters(store)
        assert store.put(names, contents).all_ok
        with store.borrow(names) as views:
            assert second.delete(names).all()
            assert not store.exists(names).any()
            others = keys(4)
            assert second.put(others, blocks(others, SIZE)).all_ok
            assert second.put(names, blocks(names, SIZE, version=1)).all_ok
            for view, expected in zip(views, contents, strict=True):
                assert_same(view, expected)
        assert store.delete(names).all()
        assert store.delete(others).all()
        wait_until(lambda: counters(store)["used_bytes"] <= before["used_bytes"], "the space of the deleted is back")

    def test_views_survive_eviction(self, store, second, keys):
        names = keys(3)
        contents = blocks(names, SIZE)
        assert store.put(names, contents).all_ok
        evicted = counters(store)["evicted_blocks"]
        filler = bytes(4 * MIB)
        pressure = keys(counters(store)["capacity_bytes"] // len(filler) + 1)
        with store.borrow(names) as views:
            for at in range(0, len(pressure), 4):
                batch = pressure[at : at + 4]
                assert second.put(batch, [filler] * len(batch)).all_ok
            assert counters(store)["evicted_blocks"] > evicted
            for view, expected in zip(views, contents, strict=True):
                assert_same(view, expected)
        store.delete(pressure)

    def test_waits_as_get_does(self, store, second, keys):
        names = keys(2)
        contents = blocks(names, SIZE)
        with ThreadPoolExecutor(1) as writer:
            put = writer.submit(_put_once_waited_for, second, names, contents)
            with store.borrow(names, wait_ms=PATIENCE_MS, timeout_ms=PATIENCE_MS) as views:
                for view, expected in zip(views, contents, strict=True):
                    assert_same(view, expected)
            assert put.result().all_ok


class Waiting(ContractBase):
    def test_a_get_waits_for_another_writer(self, store, second, keys):
        names = keys(3)
        contents = blocks(names, SIZE)
        assert store.put(names[:1], contents[:1]).all_ok
        buffers = np.zeros((3, SIZE), np.uint8)
        with ThreadPoolExecutor(1) as writer:
            put = writer.submit(_put_once_waited_for, second, names[1:], contents[1:])
            got = store.get(names, buffers, wait_ms=PATIENCE_MS, timeout_ms=PATIENCE_MS)
            assert put.result().all_ok
        assert got.all_ok, got
        assert_same(buffers, np.stack(contents))

    def test_what_is_there_is_not_waited_for(self, store, keys):
        names = keys(2)
        contents = blocks(names, SIZE)
        assert store.put(names, contents).all_ok
        buffers = np.zeros((2, SIZE), np.uint8)
        start_s = time.monotonic()
        assert store.get(names, buffers, wait_ms=PATIENCE_MS, timeout_ms=PATIENCE_MS).all_ok
        assert time.monotonic() - start_s < PATIENCE_MS / 1000
        assert_same(buffers, np.stack(contents))

    @pytest.mark.parametrize(("wait_ms", "timeout_ms"), [(200, 20_000), (20_000, 200)])
    def test_a_wait_in_vain_ends_as_a_miss(self, store, keys, wait_ms, timeout_ms):
        """... after the wait, with what there is; or at the deadline, if that comes first."""
        names = keys(2)
        contents = blocks(names, SIZE)
        assert store.put(names[:1], contents[:1]).all_ok
        buffers = np.zeros((2, SIZE), np.uint8)
        start_s = time.monotonic()
        got = store.get(names, buffers, wait_ms=wait_ms, timeout_ms=timeout_ms)
        elapsed_s = time.monotonic() - start_s
        assert 0.19 <= elapsed_s < 20
        if wait_ms < timeout_ms:
            assert got.cause.tolist() == [Status.OK, Status.MISS]
            assert_same(buffers[0], contents[0])
        else:
            assert got.status.tolist() == [Status.MISS] * 2
            assert got.cause.tolist() == [Status.TIMEOUT] * 2

    def test_many_wait_for_the_same_block(self, store, second, keys):
        names = keys(1)
        expected = block(names[0], SIZE)
        buffers = np.zeros((8, 1, SIZE), np.uint8)

        def wait(at: int):
            reader = store if at % 2 else second
            return reader.get(names, buffers[at], wait_ms=PATIENCE_MS, timeout_ms=PATIENCE_MS)

        with ThreadPoolExecutor(8) as readers:
            waiting = [readers.submit(wait, at) for at in range(8)]
            wait_until(lambda: counters(second)["gets_waiting"] == 8, "all wait")
            assert second.put(names, [expected]).all_ok
            assert all(got.result().all_ok for got in waiting)
        for buffer in buffers:
            assert_same(buffer[0], expected)


class Concurrency(ContractBase):
    @pytest.mark.parametrize("size", [4096, 300_000])
    def test_threads_share_a_client(self, store, keys, size):
        """Each works on keys of its own and on keys of all, whose bytes are the same whoever writes them."""
        common = keys(6)
        own = [keys(6) for _ in range(4)]
        errors: list[BaseException] = []

        def work(thread: int) -> None:
            random = np.random.default_rng(thread)
            buffers = np.zeros((6, size), np.uint8)
            try:
                for _ in range(15):
                    for names in (own[thread], common):
                        some = names[np.sort(random.choice(6, random.integers(1, 7), replace=False))]
                        _use(store, some, buffers[: len(some)], random)
            except BaseException as error:
                errors.append(error)
                raise

        threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    def test_clients_race_for_the_same_keys(self, store, second, keys):
        """Each has bytes of its own for them: every block is one writer's, whole, and that one was told so."""
        rounds = 12
        names = [keys(8) for _ in range(rounds)]
        barrier = threading.Barrier(2)

        def write(client, version: int):
            results = []
            for batch in names:
                contents = blocks(batch, SIZE, version)
                barrier.wait(PATIENCE_MS / 1000)
                results.append(client.put(batch, contents).status)
            return np.stack(results)

        with ThreadPoolExecutor(2) as writers:
            first, other = writers.submit(write, store, 0), writers.submit(write, second, 1)
            first_won, other_won = first.result() == Status.OK, other.result() == Status.OK
        assert (first_won ^ other_won).all()
        assert ((first.result() == Status.CONFLICT) == other_won).all()
        for batch, won in zip(names, first_won, strict=True):
            buffers = np.zeros((8, SIZE), np.uint8)
            assert store.get(batch, buffers).all_ok
            for name, buffer, is_first in zip(batch, buffers, won, strict=True):
                assert_same(buffer, block(name, SIZE, version=0 if is_first else 1))

    def test_a_block_that_comes_and_goes_is_whole_or_missing(self, store, second, keys):
        names = keys(2)
        contents = blocks(names, SIZE)
        stop = threading.Event()

        def rewrite() -> int:
            written = 0
            while not stop.is_set():
                written += int(second.put(names, contents).ok.sum())
                second.delete(names)
            return written

        with ThreadPoolExecutor(1) as writer:
            rewriting = writer.submit(rewrite)
            seen = 0
            try:
                for _ in range(300):
                    buffers = np.zeros((2, SIZE), np.uint8)
                    got = store.get(names, buffers)
                    assert set(got.cause.tolist()) <= {Status.OK, Status.MISS}
                    for at in np.flatnonzero(got.ok):
                        assert_same(buffers[at], contents[at])
                    seen += int(got.ok.sum())
            finally:
                stop.set()
            assert rewriting.result() > 0


def _put_once_waited_for(client, names, contents):
    wait_until(lambda: counters(client)["gets_waiting"] > 0, "somebody waits for the block")
    return client.put(names, contents)


def _use(store, names, buffers, random) -> None:
    """A put, then any other verb; all that is read is verified."""
    size = buffers.shape[1]
    contents = np.stack(blocks(names, size))
    assert store.put(names, contents).all_ok
    match random.integers(0, 4):
        case 0:
            buffers[:] = 0
            assert store.get(names, buffers).all_ok
            assert_same(buffers, contents)
        case 1:
            with store.borrow(names) as views:
                for view, expected in zip(views, contents, strict=True):
                    assert_same(view, expected)
        case 2:
            assert store.match(names) == len(names)
            assert store.exists(names).all()
        case _:
            assert store.touch(names).all()
            assert store.match(chain("nobody writes this", 3)) == 0
