"""What is asked to stay, stays: durable blocks, flushes, and pins with their owners and ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvstore import Status
from kvstore.errors import InvalidArgumentError
from tests.contract.base import ContractBase, FreshKeys, counters
from tests.node_process import wait_until
from tests.support.blocks import assert_same, blocks

SIZE = 5000
MESSAGE_KEYS = 4096
# Long enough for a test, short enough that a pin which a failed test left behind disturbs few others.
PIN_S = 20


class Keeping(ContractBase):
    @pytest.fixture
    def has_disk(self) -> bool:
        """Whether the store keeps blocks on a disk; one that does overrides this."""
        return False

    @pytest.fixture
    def flood(self, store: Any, keys: FreshKeys) -> Any:
        """`flood()` writes so much that memory holds nothing else that may go. Others find the store as it was."""
        piece = np.zeros(8 << 20, np.uint8)
        written = []

        def write() -> None:
            for _ in range(2 * counters(store)["capacity_bytes"] // piece.nbytes):
                written.append(keys(1))
                assert store.put(written[-1], [piece]).all_ok

        yield write
        for names in written:
            store.delete(names)

    def test_a_durable_put_says_whether_the_blocks_are(self, store, keys, has_disk):
        names = keys(3)
        contents = blocks(names, SIZE)
        put = store.put(names, contents, durable=True)
        assert put.cause.tolist() == [Status.OK if has_disk else Status.NOT_DURABLE] * 3
        assert put.all_ok == has_disk
        assert put.stored.all()
        buffers = np.zeros((3, SIZE), np.uint8)
        assert store.get(names, buffers).all_ok
        assert_same(buffers, np.stack(contents))

    def test_a_durable_put_of_what_is_there(self, store, second, keys, has_disk):
        """It is not enough that the block exists: it was, perhaps, put by somebody who did not care."""
        names = keys(3)
        first, other = blocks(names, SIZE), blocks(names, SIZE, version=1)
        assert store.put(names[:2], first[:2]).all_ok
        again = second.put(names, [first[0], other[1], first[2]], durable=True)
        new, old = (Status.OK, Status.EXISTS) if has_disk else (Status.NOT_DURABLE, Status.NOT_DURABLE)
        assert again.cause.tolist() == [old, Status.CONFLICT, new]
        assert again.stored.tolist() == [True, False, True]

    @pytest.mark.parametrize("durable", [1, None, "yes"])
    def test_durable_is_true_or_false(self, store, keys, durable):
        names = keys(1)
        with pytest.raises(InvalidArgumentError, match="durable is .*; it must be True or False"):
            store.put(names, blocks(names, SIZE), durable=durable)
        assert not store.exists(names).any()

    def test_flush(self, store, keys, has_disk):
        names = keys(2)
        assert store.put(names, blocks(names, SIZE)).all_ok
        assert store.flush() == has_disk
        assert store.flush() == has_disk

    def test_pinned_blocks_are_not_evicted(self, store, keys, flood):
        names = keys(4)
        contents = blocks(names, SIZE)
        assert store.put(names, contents).all_ok
        pinned = store.pin(names[:2], owner="operator", ttl_s=PIN_S)
        assert pinned.all_ok
        assert pinned.status.dtype == np.uint8
        flood()
        buffers = np.zeros((2, SIZE), np.uint8)
        assert store.get(names[:2], buffers).all_ok
        assert_same(buffers, np.stack(contents[:2]))
        assert store.pin(names[:2], owner="operator", ttl_s=0).all_ok

    def test_a_pin_ends_with_its_time(self, store, keys):
        names = keys(2)
        assert store.put(names, blocks(names, SIZE)).all_ok
        assert store.pin(names, owner="operator", ttl_s=0.001).all_ok
        wait_until(lambda: counters(store)["pinned_blocks"] == 0, "the pins end")
        assert counters(store)["pinned_bytes"] == 0

    def test_each_owner_unpins_its_own(self, store, second, keys, flood):
        names = keys(2)
        assert store.put(names, blocks(names, SIZE)).all_ok
        assert store.pin(names, owner="one", ttl_s=PIN_S).all_ok
        assert second.pin(names, owner="the other · 另一個", ttl_s=PIN_S).all_ok
        assert store.pin(names, owner="one", ttl_s=0).all_ok
        flood()
        assert store.exists(names).all()
        assert counters(store)["pinned_blocks"] == 2
        assert store.pin(names, owner="the other · 另一個", ttl_s=0).all_ok
        assert counters(store)["pinned_blocks"] == 0

    def test_pinning_what_is_not_there(self, store, keys):
        names = keys(3)
        assert store.put(names[1:2], blocks(names[1:2], SIZE)).all_ok
        pinned = store.pin(names, owner="operator", ttl_s=PIN_S)
        assert pinned.status.tolist() == pinned.cause.tolist() == [Status.MISS, Status.OK, Status.MISS]
        assert pinned.ok.tolist() == [False, True, False]
        assert store.pin(names[1:2], owner="operator", ttl_s=0).all_ok
        assert store.pin(keys(0), owner="operator", ttl_s=PIN_S).status.shape == (0,)

    def test_pinning_more_than_a_message_takes(self, store, keys):
        names = keys(2 * MESSAGE_KEYS + 2)
        present = [0, MESSAGE_KEYS - 1, MESSAGE_KEYS, 2 * MESSAGE_KEYS + 1]
        assert store.put(names[present], [bytes(name) for name in names[present]]).all_ok
        pinned = store.pin(names, owner="operator", ttl_s=PIN_S)
        assert np.flatnonzero(pinned.ok).tolist() == present
        assert store.pin(names[present], owner="operator", ttl_s=0).all_ok

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            *(({"owner": owner}, "owner is") for owner in ("", "é" * 128, b"operator", None, "\ud800")),
            *(({"ttl_s": ttl_s}, "ttl_s is") for ttl_s in (-1, float("nan"), float("inf"), "1", None)),
            ({"timeout_ms": 0}, "timeout_ms is"),
        ],
    )
    def test_what_a_pin_does_not_take(self, store, keys, option, message):
        with pytest.raises(InvalidArgumentError, match=message):
            store.pin(keys(1), **{"owner": "operator", "ttl_s": 1, **option})

    @pytest.mark.parametrize("timeout_ms", [0, -1, "1", 1.5])
    def test_what_a_flush_does_not_take(self, store, timeout_ms):
        with pytest.raises(InvalidArgumentError, match="timeout_ms is"):
            store.flush(timeout_ms=timeout_ms)
