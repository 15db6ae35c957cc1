"""From the first writer to the end: who wins, what is there, what expires, what is deleted."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kvstore import Status
from tests.contract.base import ContractBase, counters
from tests.node_process import wait_until
from tests.support.blocks import assert_same, block, blocks

SIZE = 5000
GRANULE = 4096
# Long enough to look before it has passed, on a busy machine too.
TTL_S = 0.4


def space(size: int) -> int:
    """What a block takes of the store's budget."""
    return -(-size // GRANULE) * GRANULE


class LifeOfBlocks(ContractBase):
    def test_first_writer_wins(self, store, second, keys):
        names = keys(3)
        first, other = blocks(names, SIZE), blocks(names, SIZE, version=1)
        before = counters(store)
        assert store.put(names[:2], first[:2]).cause.tolist() == [Status.OK] * 2
        again = second.put(names, [first[0], other[1], first[2]])
        assert again.status.tolist() == [Status.OK, Status.CONFLICT, Status.OK]
        assert again.cause.tolist() == [Status.EXISTS, Status.CONFLICT, Status.OK]
        assert not again.all_ok
        assert again.ok.tolist() == [True, False, True]
        buffers = np.zeros((3, SIZE), np.uint8)
        assert store.get(names, buffers).all_ok
        assert_same(buffers, np.stack(first))
        expected = {"puts": 3, "put_exists": 1, "put_conflicts": 1, "blocks": 3, "used_bytes": 3 * space(SIZE)}
        wait_until(
            lambda: {name: counters(store)[name] - before[name] for name in expected} == expected,
            f"the node has counted {expected}",
        )

    @pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 1, 3 * SIZE])
    def test_another_length_is_another_block(self, store, keys, size):
        names = keys(1)
        first = block(names[0], SIZE)
        assert store.put(names, [first]).all_ok
        assert store.put(names, [block(names[0], size)]).status.tolist() == [Status.CONFLICT]
        buffer = np.zeros(SIZE, np.uint8)
        assert store.get(names, [buffer]).all_ok
        assert_same(buffer, first)

    def test_a_key_twice_in_one_batch(self, store, keys):
        names = keys(2)
        first, other = block(names[0], SIZE), block(names[0], SIZE, version=1)
        twice = names[[0, 1, 0, 0]]
        put = store.put(twice, [first, block(names[1], SIZE), first, other])
        assert put.cause.tolist() == [Status.OK, Status.OK, Status.EXISTS, Status.CONFLICT]
        buffers = np.zeros((4, SIZE), np.uint8)
        assert store.get(twice, buffers).all_ok
        for at in (0, 2, 3):
            assert_same(buffers[at], first)
        assert store.match(twice) == 4
        with store.borrow(twice) as views:
            for at in (0, 2, 3):
                assert_same(views[at], first)
        assert store.delete(twice).tolist() == [True, True, False, False]

    def test_match_stops_at_the_first_hole(self, store, keys):
        names = keys(1500)
        assert store.match(names) == 0
        assert store.put(names, [bytes(name) for name in names]).all_ok
        assert store.match(names) == 1500
        for hole in (1400, 1024, 1023, 700, 1, 0):
            assert store.delete(names[hole : hole + 1]).all()
            assert store.match(names) == hole
        assert store.match(names[1:2]) == 0
        assert store.match(names[2:]) == 698

    def test_what_is_missing_leaves_the_others_readable(self, store, keys):
        names = keys(6)
        contents = blocks(names, SIZE)
        assert store.put(names[[0, 2, 4]], contents[::2]).all_ok
        buffers = np.zeros((6, SIZE), np.uint8)
        got = store.get(names, buffers)
        assert got.status.tolist() == got.cause.tolist() == [Status.OK, Status.MISS] * 3
        assert got.status.dtype == got.cause.dtype == np.uint8
        assert_same(buffers[::2], np.stack(contents[::2]))
        assert store.match(names) == 1
        assert store.exists(names).tolist() == [True, False] * 3
        assert store.touch(names).tolist() == [True, False] * 3

    def test_delete(self, store, keys):
        names = keys(4)
        before = counters(store)
        assert store.put(names, blocks(names, SIZE)).all_ok
        assert store.delete(names[1:3]).tolist() == [True, True]
        assert store.delete(names).tolist() == [True, False, False, True]
        assert store.delete(names).tolist() == [False] * 4
        assert not store.exists(names).any()
        assert store.get(names, np.zeros((4, SIZE), np.uint8)).status.tolist() == [Status.MISS] * 4
        after = counters(store)
        assert after["deleted_blocks"] - before["deleted_blocks"] == 4
        assert after["blocks"] == before["blocks"]
        # Where they were on their way to a disk, that ends first.
        wait_until(lambda: counters(store)["used_bytes"] <= before["used_bytes"], "their space is free")
        other = blocks(names, SIZE, version=1)
        assert store.put(names, other).cause.tolist() == [Status.OK] * 4
        buffers = np.zeros((4, SIZE), np.uint8)
        assert store.get(names, buffers).all_ok
        assert_same(buffers, np.stack(other))

    def test_expiry(self, store, keys):
        """Nobody asks for these blocks: they go, and give back their space, by themselves."""
        names = keys(3)
        before = counters(store)
        start_s = time.monotonic()
        assert store.put(names[:2], blocks(names[:2], SIZE), ttl_s=TTL_S).all_ok
        assert store.put(names[2:], blocks(names[2:], SIZE)).all_ok
        seen = counters(store)["blocks"]
        assert seen == before["blocks"] + 3 or time.monotonic() - start_s >= TTL_S
        wait_until(lambda: counters(store)["expired_blocks"] - before["expired_blocks"] == 2, "the blocks expire")
        assert time.monotonic() - start_s >= TTL_S * 0.99
        assert store.exists(names).tolist() == [False, False, True]
        left = before["used_bytes"] + space(SIZE)
        wait_until(lambda: counters(store)["used_bytes"] <= left, "their space is free")
        assert store.put(names, blocks(names, SIZE)).cause.tolist() == [Status.OK, Status.OK, Status.EXISTS]

    def test_an_expired_block_is_a_miss_at_once(self, store, keys):
        names = keys(1)
        start_s = time.monotonic()
        assert store.put(names, blocks(names, SIZE), ttl_s=TTL_S).all_ok
        buffer = np.zeros((1, SIZE), np.uint8)
        status = Status.OK
        while status == Status.OK:
            asked_s = time.monotonic()
            status = store.get(names, buffer).status[0]
            assert asked_s < start_s + TTL_S + 10, "the block does not expire"
        assert status == Status.MISS
        assert time.monotonic() >= start_s + TTL_S * 0.99

    def test_touch_sets_a_new_expiry(self, store, keys):
        names = keys(3)
        start_s = time.monotonic()
        assert store.put(names[:2], blocks(names[:2], SIZE), ttl_s=TTL_S).all_ok
        assert store.put(names[2:], blocks(names[2:], SIZE)).all_ok
        kept = store.touch(names[:1], ttl_s=600).all() and store.touch(names[1:2]).all()
        assert kept or time.monotonic() - start_s >= TTL_S
        assert store.touch(names[2:], ttl_s=TTL_S).all()
        wait_until(lambda: not store.exists(names[1:]).any(), "what was not prolonged expires")
        assert store.exists(names[:1]).all() == kept

    def test_a_rewritten_block_has_its_own_expiry(self, store, keys):
        names = keys(1)
        contents = blocks(names, SIZE)
        assert store.put(names, contents, ttl_s=TTL_S).all_ok
        store.delete(names)
        assert store.put(names, contents).cause.tolist() == [Status.OK]
        wait_until(lambda: not store.put(keys(1), contents, ttl_s=0.001).status.any(), "a later block can be put")
        time.sleep(TTL_S)
        assert store.exists(names).all()

    def test_first_depth_is_taken_by_every_verb_that_ages_blocks(self, store, keys):
        names = keys(8)
        contents = blocks(names, SIZE)
        buffers = np.zeros((4, SIZE), np.uint8)
        assert store.put(names[:4], contents[:4], first_depth=0).all_ok
        assert store.put(names[4:], contents[4:], first_depth=4).all_ok
        assert store.get(names[4:], buffers, first_depth=4).all_ok
        assert_same(buffers, np.stack(contents[4:]))
        assert store.touch(names[4:], first_depth=(1 << 32) - 5).all()
        with store.borrow(names[6:], first_depth=6) as views:
            assert_same(views[0], contents[6])

    def test_stats(self, store, keys):
        names = keys(2)
        before = store.stats()
        assert store.put(names, blocks(names, SIZE)).all_ok
        assert store.get(names, np.zeros((2, SIZE), np.uint8)).all_ok
        assert store.get(keys(1), [bytearray(SIZE)]).status.tolist() == [Status.MISS]
        after = store.stats()
        assert after.keys() == before.keys() == {"client", "node"}
        client, node = after["client"], after["node"]
        assert isinstance(client["lane"], str)
        assert client["endpoint"]
        assert client["connected"] is True
        counted = {
            "client": {"batches": 3, "blocks_read": 2, "blocks_written": 2, "misses": 1, "bytes_read": 2 * SIZE},
            "node": {"blocks": 2, "puts": 2, "hits": 2, "misses": 1, "used_bytes": 2 * space(SIZE)},
        }
        for side, expected in counted.items():
            grown = {name: after[side][name] - before[side][name] for name in expected}
            assert grown == expected, side
        assert 0 < node["used_bytes"] <= node["capacity_bytes"]
        assert all(value >= 0 for value in node.values() if isinstance(value, int))
