"""The store as an engine's loop sees it, while the node is away, dead, frozen or overrun: misses, and in time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.connectors.core.clock import FakeClock
from tests.node_process import GRACE_S, wait_until
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.node import Node

SIZE = 64 << 10
# Of a wait that has an end of its own; only a lost completion takes so long.
HANG_MS = 20_000


@pytest.fixture
def store(node, open_store):
    return open_store(node.url)


def finish(store, ticket):
    (done,) = [done for done in store.wait([ticket], HANG_MS) if done.ticket == ticket]
    return done


def save(store, keys):
    return store.save(keys, blocks(keys, SIZE), nbytes=len(keys) * SIZE)


def load(store, keys):
    return store.load(keys, np.zeros((len(keys), SIZE), np.uint8), nbytes=len(keys) * SIZE)


def is_there(store, keys):
    return finish(store, store.lookup(keys)).ok.all()


class TestKilled:
    def test_what_is_under_way_ends_and_what_comes_later_is_a_miss_at_once(self, node, store, caplog):
        keys = chain("killed", 4)
        assert finish(store, save(store, keys)).ok.all()
        node.freeze()  # so that nothing is answered before it dies
        tickets = [store.lookup(keys), store.exists(keys), load(store, keys), save(store, chain("other", 4))]
        node.kill()
        ended = store.wait(tickets, HANG_MS)
        assert {done.ticket for done in ended} == set(tickets)
        assert not any(done.ok.any() for done in ended)
        wait_until(lambda: not store.connected, "the loss is noticed")
        assert not is_there(store, keys)
        assert finish(store, load(store, keys)).leading == 0
        assert save(store, keys) is None
        stats = store.stats()
        assert (stats["connected"], stats["pauses"], stats["saves_dropped"], stats["pending"]) == (0, 0, 1, 0)
        assert any("were not loaded (" in message for message in caplog.messages)

    def test_a_restarted_node_is_used_again_by_itself(self, node, store):
        keys = chain("restarted", 2)
        assert finish(store, save(store, keys)).ok.all()
        node.kill()
        wait_until(lambda: not store.connected, "the loss is noticed")
        node.start()
        wait_until(lambda: store.connected, "the store is back", 20)
        assert not is_there(store, keys)
        assert finish(store, save(store, keys)).ok.all()
        buffers = np.zeros((2, SIZE), np.uint8)
        assert finish(store, store.load(keys, buffers, nbytes=2 * SIZE)).ok.all()
        assert_same(buffers[1], block(keys[1], SIZE))


class TestFrozen:
    def test_every_verb_ends_within_its_timeout(self, node, store):
        keys = chain("frozen", 2)
        assert finish(store, save(store, keys)).ok.all()
        node.freeze()
        started_s = time.monotonic()
        tickets = [store.lookup(keys), store.exists(keys), load(store, keys), save(store, chain("new", 2))]
        ended = store.wait(tickets, HANG_MS)
        assert time.monotonic() - started_s < 0.5 + GRACE_S
        assert {done.ticket for done in ended} == set(tickets)
        assert not any(done.ok.any() for done in ended)

    def test_after_two_timeouts_it_is_left_alone_and_then_tried(self, node, open_store):
        clock = FakeClock()
        store = open_store(node.url, clock=clock)
        keys = chain("left alone", 2)
        assert finish(store, save(store, keys)).ok.all()
        node.freeze()
        for _ in range(2):
            assert not finish(store, load(store, keys)).ok.any()
        assert store.stats()["pauses"] == 1
        ticket = store.lookup(keys)
        (done,) = store.poll()  # ended without asking the node
        assert (done.ticket, done.ok.any()) == (ticket, False)
        assert save(store, keys) is None
        node.thaw()
        wait_until(lambda: store.connected, "the node is back", 20)
        clock.pass_s(0.9)
        assert not is_there(store, keys), "the pause is not over"
        clock.pass_s(0.1)
        assert is_there(store, keys), "one may try"
        assert finish(store, save(store, keys)).ok.all()
        assert store.stats()["pauses"] == 1

    def test_a_load_that_times_out_leaves_its_buffers_alone_afterwards(self, node, store):
        keys = chain("late", 2)
        assert finish(store, save(store, keys)).ok.all()
        buffers = np.zeros((2, SIZE), np.uint8)
        node.freeze()
        assert not finish(store, store.load(keys, buffers, nbytes=2 * SIZE)).ok.any()
        buffers[:] = 7
        node.thaw()
        wait_until(lambda: is_there(store, keys), "the node answers again")
        assert (buffers == 7).all()


class TestPolledLate:
    def test_a_loop_that_polls_late_takes_no_miss_for_a_frozen_node(self, node, open_store):
        clock = FakeClock()
        store = open_store(node.url, clock=_BothClocks(clock))
        for _ in range(5):
            ticket = store.lookup(chain("nobody", 3))
            clock.pass_s(10)  # a long step of the engine
            assert not finish(store, ticket).ok.any()
        assert store.stats()["pauses"] == 0
        assert finish(store, save(store, chain("later", 1))).ok.all()

    def test_and_still_notices_a_frozen_node(self, node, open_store):
        clock = FakeClock()
        store = open_store(node.url, clock=_BothClocks(clock))
        node.freeze()
        for _ in range(2):
            ticket = store.lookup(chain("nobody", 3))
            clock.pass_s(10)
            assert not finish(store, ticket).ok.any()
        assert store.stats()["pauses"] == 1


class TestAway:
    def test_at_start_everything_is_a_miss_until_the_node_comes(self, tmp_path, open_store, caplog):
        absent = Node(tmp_path)
        with absent as node:
            node.kill()
            store = open_store(node.url)
            assert not store.connected
            assert store.lane == ""
            assert any(node.address in message for message in caplog.messages)
            keys = chain("away", 2)
            assert not is_there(store, keys)
            assert save(store, keys) is None
            node.start()
            wait_until(lambda: store.connected, "the node is found", 20)
            assert store.lane
            assert finish(store, save(store, keys)).ok.all()
            assert is_there(store, keys)


class TestBackPressure:
    def test_saves_beyond_the_limit_are_dropped_and_counted(self, node, open_store, caplog):
        store = open_store(node.url, save_bytes=1 << 20, save_timeout_ms=HANG_MS)
        some = [chain(f"part {part}", 6) for part in range(3)]  # 384 KiB each
        node.freeze()
        tickets = [save(store, keys) for keys in some]
        assert None not in tickets[:2]
        assert tickets[2] is None
        assert store.saving_bytes == store.stats()["saving_bytes"] == 12 * SIZE
        stats = store.stats()
        assert (stats["saves"], stats["saves_dropped"], stats["save_dropped_blocks"]) == (2, 1, 6)
        assert f"saves are dropped: {12 * SIZE} bytes" in caplog.text
        node.thaw()
        ended = store.wait(tickets[:2], HANG_MS)
        assert all(done.ok.all() for done in ended)
        assert store.saving_bytes == 0
        assert finish(store, save(store, some[2])).ok.all()

    def test_one_save_may_be_larger_than_the_limit(self, node, open_store):
        store = open_store(node.url, save_bytes=1 << 20, save_timeout_ms=HANG_MS)
        assert finish(store, save(store, chain("large", 32))).ok.all()

    def test_loads_and_lookups_are_no_saves(self, node, open_store):
        store = open_store(node.url, save_bytes=1 << 20)
        node.freeze()
        tickets = [load(store, chain("read", 32)), store.lookup(chain("read", 32))]
        assert store.saving_bytes == 0
        node.thaw()
        store.wait(tickets, HANG_MS)

    def test_a_save_that_could_not_even_begin_is_counted(self, store):
        store.drop_save(5)
        stats = store.stats()
        assert (stats["saves"], stats["saves_dropped"], stats["save_dropped_blocks"]) == (0, 1, 5)


class _BothClocks:
    """Time as it passes, and what a test adds."""

    def __init__(self, added: FakeClock) -> None:
        self._added = added

    def __call__(self) -> float:
        return time.monotonic() + self._added()
