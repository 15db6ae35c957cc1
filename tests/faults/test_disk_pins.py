"""Expiry and pins with a disk: both hold against pressure and across restarts, and both end."""

from __future__ import annotations

import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import GRACE_S, wait_until
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.disk_node import CONFIG, DiskNode, assert_accounts

SIZE = 256 << 10
DISK_SIZE = "24MiB"
OWNER = "operator"
# Longer than a node takes to start on a busy machine; expiry is looked for once it is over.
TTL_S = 3.0


@pytest.fixture
def node(tmp_path):
    with DiskNode(tmp_path, memory="8MiB", disk_size=DISK_SIZE) as running:
        yield running


@pytest.fixture
def store(node):
    with kvstore.connect(node.url, config=CONFIG) as client:
        yield client


def put(store, name, count, **options):
    names = chain(name, count)
    assert store.put(names, blocks(names, SIZE), durable=True, **options).all_ok
    return names


def come_back(node, store):
    node.kill()
    node.start()
    wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 20)


def flood(store, name):
    """Twice what the disk has room for."""
    for number in range(24):
        put(store, f"{name} {number}", 8)


def assert_there(store, names):
    buffers = np.zeros((len(names), SIZE), np.uint8)
    got = store.get(names, buffers)
    assert got.all_ok, got
    for name, buffer in zip(names, buffers, strict=True):
        assert_same(buffer, block(name, SIZE))


class TestPins:
    def test_what_is_pinned_stays_while_everything_else_goes(self, node, store):
        pinned, free = put(store, "pinned", 8), put(store, "free", 8)
        assert store.pin(pinned, owner=OWNER, ttl_s=600).all_ok
        flood(store, "first")
        assert_there(store, pinned)
        assert not store.exists(free).any()
        come_back(node, store)
        assert node.counters["pinned_blocks"] == len(pinned)
        flood(store, "second")
        assert_there(store, pinned)
        assert store.pin(pinned, owner=OWNER, ttl_s=0).all_ok
        flood(store, "third")
        assert not store.exists(pinned).any()

    def test_more_than_the_share_is_refused_and_the_rest_is_kept(self, node, store):
        names = put(store, "share", 64)
        pinned = store.pin(names, owner=OWNER, ttl_s=600)
        share_blocks = node.counters["pinned_bytes_max"] // SIZE
        assert pinned.cause.tolist() == [Status.OK] * share_blocks + [Status.BUSY] * (len(names) - share_blocks)
        assert node.counters["pinned_bytes"] == share_blocks * SIZE <= node.counters["pinned_bytes_max"]
        come_back(node, store)
        assert node.counters["pinned_blocks"] == share_blocks
        flood(store, "share")
        assert_there(store, names[:share_blocks])
        assert store.pin(names[:1], owner="another", ttl_s=600).all_ok, "a second pin of a block takes no more space"

    def test_a_pin_ends_with_its_time_whether_the_node_runs_or_not(self, node, store):
        first, second = put(store, "first", 4), put(store, "second", 4)
        started_s = time.monotonic()
        assert store.pin(first, owner=OWNER, ttl_s=TTL_S).all_ok
        assert store.pin(second, owner=OWNER, ttl_s=0.5).all_ok
        come_back(node, store)
        if time.monotonic() - started_s < TTL_S - 2:
            node.wait_for_counters("one chain is pinned", pinned_blocks=4)
        node.wait_for_counters("no pin is left", TTL_S + 15, pinned_blocks=0, pinned_bytes=0)
        flood(store, "after")
        assert not store.exists(first).any()
        assert not store.exists(second).any()

    def test_deleting_ends_pins_for_good(self, node, store):
        names = put(store, "deleted", 4)
        assert store.pin(names, owner=OWNER, ttl_s=600).all_ok
        assert store.delete(names).all()
        node.wait_for_counters("no pin is left", pinned_blocks=0)
        assert store.flush()
        come_back(node, store)
        assert_accounts(node, [])
        assert node.counters["pinned_blocks"] == 0

    def test_a_disk_that_is_pinned_full(self, tmp_path):
        """New blocks have nowhere to go: writers are told so within their deadline, and it ends with the pins."""
        with (
            DiskNode(tmp_path, memory="8MiB", disk_size=DISK_SIZE, settings="pin_share = 100") as node,
            kvstore.connect(node.url, config=CONFIG) as store,
        ):
            pinned = pin_all(store)
            causes = []
            for number in range(8):
                names = chain(f"too much {number}", 4)
                started_s = time.monotonic()
                causes += store.put(names, blocks(names, SIZE), timeout_ms=300).cause.tolist()
                assert time.monotonic() - started_s < 0.3 + GRACE_S
            assert {Status.BUSY} < set(causes) <= {Status.OK, Status.BUSY, Status.TIMEOUT}
            assert not store.flush(timeout_ms=500)
            assert_there(store, pinned)
            assert store.pin(pinned[:24], owner=OWNER, ttl_s=0).all_ok
            assert store.flush()
            later = put(store, "later", 8)
            come_back(node, store)
            assert_there(store, later)
            assert_there(store, pinned[24:])


def pin_all(store):
    """Fills the disk with pinned blocks."""
    pinned = []
    for number in range(200):
        names = chain(f"pinned {number}", 1)
        put = store.put(names, blocks(names, SIZE), durable=True, timeout_ms=500)
        if not put.all_ok or not store.pin(names, owner=OWNER, ttl_s=600).all_ok:
            break
        pinned.append(names)
    assert 60 < len(pinned) < 96, "the disk is full"
    return np.concatenate(pinned)


class TestExpiry:
    def test_goes_on_while_the_node_is_down(self, node, store):
        kept = put(store, "kept", 2)
        soon, later = put(store, "soon", 2, ttl_s=0.5), put(store, "later", 2, ttl_s=600)
        come_back(node, store)
        wait_until(lambda: not store.exists(soon).any(), "the blocks expire")
        assert_there(store, kept)
        assert_there(store, later)
        assert_accounts(node, [SIZE] * 4)

    def test_ends_on_time_after_a_restart(self, node, store):
        started_s = time.monotonic()
        names = put(store, "on time", 4, ttl_s=TTL_S)
        come_back(node, store)
        present = store.exists(names).all()
        assert present or time.monotonic() - started_s >= TTL_S
        wait_until(lambda: not store.exists(names).any(), "the blocks expire", TTL_S + 15)
        assert time.monotonic() - started_s >= TTL_S - 0.1
        assert_accounts(node, [])

    def test_a_longer_life_by_touch_survives(self, node, store):
        names = put(store, "touched", 4, ttl_s=2.0)
        assert store.touch(names[:2], ttl_s=600).all()
        assert store.flush()
        come_back(node, store)
        wait_until(lambda: not store.exists(names[2:]).any(), "what was not touched expires")
        assert_there(store, names[:2])
        assert_accounts(node, [SIZE] * 2)
