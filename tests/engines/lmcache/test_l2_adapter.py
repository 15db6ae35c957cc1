"""`KVStoreL2Adapter`: locks between lookup and load, layouts in names, what LMCache is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lmcache")

import torch
from lmcache.v1.distributed.internal_api import L2AdapterListener

from kvstore.errors import ConfigError
from tests.engines.lmcache.adapters import Buffers, find, load, object_keys, open_adapter, store
from tests.node_process import wait_until
from tests.support.node import Node

LOCK_TTL_MS = 1_000
EVERYTHING = 1 << 40


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="64MiB") as running:
        yield running


@pytest.fixture
def adapter(node):
    adapter = open_adapter("plugin", endpoint=node.url)
    yield adapter
    adapter.close()


def evict_all(node, blocks_left):
    """Asks for everything until no more than so many blocks are there: leases of readers end a moment after them."""

    def is_so():
        node.evict(EVERYTHING)
        return node.counters["blocks"] == blocks_left

    wait_until(is_so, f"all but {blocks_left} blocks are evicted")


def wait_for_locks(adapter, count):
    wait_until(lambda: adapter.report_status()["locked_blocks"] == count, f"{count} blocks are locked")


def test_what_was_found_stays_until_it_is_unlocked(node, adapter):
    keys, content = object_keys(4), Buffers.random(4)
    store(adapter, keys, content)
    assert find(adapter, keys[:2], content) == [True, True]
    evict_all(node, blocks_left=2)
    loaded = Buffers(4)
    assert load(adapter, keys, loaded) == [True, True, False, False]
    assert np.array_equal(loaded.content[:2], content.content[:2])
    adapter.submit_unlock(keys[:2])
    evict_all(node, blocks_left=0)
    assert load(adapter, keys, loaded) == [False] * 4


def test_an_object_that_was_found_twice_stays_until_it_is_unlocked_twice(node, adapter):
    keys, content = object_keys(1), Buffers.random(1)
    store(adapter, keys, content)
    assert find(adapter, keys, content) == find(adapter, keys, content) == [True]
    adapter.submit_unlock(keys)
    adapter.submit_unlock(object_keys(1, name="never found"))
    assert find(adapter, object_keys(1, name="later than the unlock"), content) == [False]
    evict_all(node, blocks_left=1)
    adapter.submit_unlock(keys)
    evict_all(node, blocks_left=0)


def test_locks_of_another_adapter_count_for_themselves(node, adapter):
    other = open_adapter("plugin", endpoint=node.url)
    keys, content = object_keys(1), Buffers.random(1)
    store(adapter, keys, content)
    assert find(adapter, keys, content) == find(other, keys, content) == [True]
    adapter.submit_unlock(keys)
    wait_for_locks(adapter, 0)
    evict_all(node, blocks_left=1)
    other.close()
    evict_all(node, blocks_left=0)


def test_closing_gives_locks_back(node):
    adapter = open_adapter("plugin", endpoint=node.url, lock_ttl_ms=3_600_000)
    keys, content = object_keys(1), Buffers.random(1)
    store(adapter, keys, content)
    find(adapter, keys, content)
    evict_all(node, blocks_left=1)
    adapter.close()
    adapter.close()
    evict_all(node, blocks_left=0)


def test_locks_of_a_process_that_died_end_by_themselves(node):
    program = (
        "import sys\n"
        "from tests.engines.lmcache.adapters import *\n"
        "adapter = open_adapter('plugin', endpoint=sys.argv[1], lock_ttl_ms=int(sys.argv[2]))\n"
        "keys, content = object_keys(2), Buffers.random(2)\n"
        "assert store(adapter, keys, content)\n"
        "assert find(adapter, keys, content) == [True, True]\n"
        "print('found', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, node.url, str(10 * LOCK_TTL_MS)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert any(line == "found\n" for line in locker.stdout)
        evict_all(node, blocks_left=2)
        os.kill(locker.pid, signal.SIGKILL)
        locker.wait()
    evict_all(node, blocks_left=2)
    wait_until(lambda: node.evict(EVERYTHING) or node.counters["blocks"] == 0, "the locks are over", 20)


def test_a_load_after_the_lock_is_over_may_miss(node):
    adapter = open_adapter("plugin", endpoint=node.url, lock_ttl_ms=LOCK_TTL_MS)
    keys, content = object_keys(1), Buffers.random(1)
    store(adapter, keys, content)
    assert find(adapter, keys, content) == [True]
    evict_all(node, blocks_left=0)
    assert load(adapter, keys, Buffers(1)) == [False]
    adapter.submit_unlock(keys)
    wait_for_locks(adapter, 0)
    adapter.close()


def test_locks_that_nobody_gives_back_are_forgotten(node):
    adapter = open_adapter("plugin", endpoint=node.url, lock_ttl_ms=LOCK_TTL_MS)
    keys, content = object_keys(2), Buffers.random(2)
    store(adapter, keys, content)
    find(adapter, keys, content)
    assert adapter.report_status()["locked_blocks"] == 2
    evict_all(node, blocks_left=0)

    def are_forgotten():
        find(adapter, object_keys(1, name="another"), content)
        return adapter.report_status()["locked_blocks"] == 0

    wait_until(are_forgotten, "the locks are forgotten")
    adapter.close()


def test_more_than_may_be_pinned_is_found_all_the_same(tmp_path):
    with Node(tmp_path, memory="16MiB", settings="pin_share = 1") as node:
        adapter = open_adapter("plugin", endpoint=node.url)
        keys, content = object_keys(40), Buffers.random(40)
        store(adapter, keys, content)
        assert find(adapter, keys, content) == [True] * 40
        assert load(adapter, keys, Buffers(40)) == [True] * 40
        adapter.close()


def test_lookups_without_a_layout_find_what_was_stored_last(adapter):
    keys, content = object_keys(2), Buffers.random(2)
    assert find(adapter, keys) == [False, False]
    store(adapter, keys, content)
    assert find(adapter, keys) == [True, True]


def test_objects_that_are_mere_bytes_have_the_layout_that_lookups_said(adapter):
    keys, kv = object_keys(2), Buffers(1)
    encoded = Buffers.random(2, seed=3, shape=(1_000,), dtype=torch.uint8)
    assert find(adapter, keys, kv) == [False, False]
    store(adapter, keys, encoded)
    assert find(adapter, keys, kv) == [True, True]
    loaded = Buffers(2, shape=(1_000,), dtype=torch.uint8)
    assert load(adapter, keys, loaded) == [True, True]
    assert np.array_equal(loaded.content, encoded.content)


def test_groups_have_layouts_of_their_own(adapter):
    keys = object_keys(1, group=0) + object_keys(1, group=1)
    content = Buffers.random(2)
    store(adapter, keys, content)
    other = Buffers(1, shape=(4, 2, 16, 32))
    assert find(adapter, keys, content, other) == [True, False]
    assert find(adapter, keys, content, content) == [True, True]


class Listener(L2AdapterListener):
    def __init__(self):
        self.stored, self.accessed, self.deleted = [], [], []

    def on_l2_keys_stored(self, keys, sizes):
        self.stored += zip(keys, sizes, strict=True)

    def on_l2_keys_accessed(self, keys):
        self.accessed += keys

    def on_l2_keys_deleted(self, keys):
        self.deleted += keys
        raise RuntimeError("a listener's defect")


def test_listeners_are_told_and_cannot_stop_it(adapter):
    listener = Listener()
    adapter.register_listener(listener)
    keys, content = object_keys(3, salt="one"), Buffers.random(3)
    size = content.content.shape[1]
    store(adapter, keys, content)
    load(adapter, [*keys, *object_keys(1, name="another")], Buffers(4))
    wait_until(lambda: listener.accessed == keys, "the loads are told")
    assert listener.stored == [(key, size) for key in keys]
    assert adapter.get_usage().bytes_by_cache_salt == {"one": 3 * size}
    adapter.delete(keys[:2])
    wait_until(lambda: listener.deleted == keys[:2], "the deletes are told")
    assert adapter.get_usage().total_bytes_used == size
    assert find(adapter, keys, content) == [False, False, True]


def test_the_status_says_whether_there_is_a_node(node, adapter):
    status = adapter.report_status()
    assert (status["is_healthy"], status["lane"], status["endpoint"]) == (True, "mapped", node.url)
    node.kill()
    wait_until(lambda: not adapter.report_status()["is_healthy"], "the loss is noticed")


@pytest.mark.parametrize("params", [{"lock_ttl_ms": 0}, {"lock_ttl_ms": "soon"}, {"endpoint": ""}, {"save_byte": 1}])
def test_settings_of_no_use_are_refused(params):
    with pytest.raises(ConfigError):
        open_adapter("plugin", **{"endpoint": "kv://127.0.0.1:1", **params})
