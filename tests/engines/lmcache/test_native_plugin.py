"""`KVStoreNativePlugin` by its own interface, without LMCache: batches, the descriptor, what never reaches the node."""

from __future__ import annotations

import select

import numpy as np
import pytest

from kvstore.connectors.lmcache import KVStoreNativePlugin
from kvstore.errors import ConfigError
from tests.node_process import wait_until
from tests.support.node import Node

OBJECT_BYTES = 10_000
WAIT_MS = 15_000


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="64MiB") as running:
        yield running


@pytest.fixture
def plugin(node):
    plugin = open_plugin(node)
    yield plugin
    plugin.close()


def open_plugin(node, **params):
    return KVStoreNativePlugin(**{"endpoint": node.url, "dtype": "float32", **params})


def names(count, name="prompt", model="model"):
    return [f"{model}@02010201@0@{name}{index}" for index in range(count)]


def objects(count, seed=1, size=OBJECT_BYTES):
    return np.random.default_rng(seed).integers(0, 256, (count, size), np.uint8)


def is_readable(plugin, timeout_ms=0):
    readable = select.poll()
    readable.register(plugin.event_fd(), select.POLLIN)
    return bool(readable.poll(timeout_ms))


def completion(plugin, number):
    """(ok, error, bools) of the only submission under way, waited for as LMCache does."""
    assert is_readable(plugin, WAIT_MS), "nothing has ended"
    (found,) = plugin.drain_completions()
    assert found[0] == number
    return found[1:]


def put(plugin, keys, content):
    return completion(plugin, plugin.submit_batch_set(keys, [memoryview(one) for one in content]))


def get(plugin, keys, size=OBJECT_BYTES):
    found = np.full((len(keys), size), 0xEE, np.uint8)
    ok, error, loaded = completion(plugin, plugin.submit_batch_get(keys, [memoryview(one) for one in found]))
    assert (ok, error) == (True, "")
    return loaded, found


def test_objects_come_back(plugin):
    keys, content = names(3), objects(3)
    assert put(plugin, keys, content) == (True, "", None)
    assert completion(plugin, plugin.submit_batch_exists([*keys, "model@02010201@0@other"]))[2] == [True] * 3 + [False]
    loaded, found = get(plugin, [*keys, "model@02010201@0@other"])
    assert loaded == [True, True, True, False]
    assert np.array_equal(found[:3], content)


def test_the_descriptor_is_readable_only_while_something_is_to_be_drained(plugin):
    assert not is_readable(plugin)
    number = plugin.submit_batch_exists(names(1))
    assert completion(plugin, number)[2] == [False]
    assert not is_readable(plugin)
    assert plugin.drain_completions() == []


def test_deleted_objects_are_misses(plugin):
    keys = names(3)
    put(plugin, keys, objects(3))
    assert completion(plugin, plugin.submit_batch_delete([*keys[:2], "model@0@0@other"])) == (
        True,
        "",
        [True, True, False],
    )
    assert get(plugin, keys)[0] == [False, False, True]


def test_an_object_of_another_length_is_a_miss(plugin):
    put(plugin, names(2), objects(2))
    assert get(plugin, names(2), size=OBJECT_BYTES // 2)[0] == [False, False]
    assert get(plugin, names(2))[0] == [True, True]


def test_salts_ranks_groups_and_models_of_the_key_tell_objects_apart(plugin):
    key = "model@02010201@0@00ff"
    put(plugin, [key], objects(1))
    others = [f"{key}@salt", "model@02000200@0@00ff", "model@02010201@1@00ff", "other@02010201@0@00ff"]
    assert get(plugin, others)[0] == [False] * 4


def test_what_is_not_in_the_key_tells_objects_apart(node, plugin, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"sixteen bytes or more")
    put(plugin, names(1), objects(1))
    for params in ({"dtype": "bfloat16"}, {"format": "fp8"}, {"revision": "2"}, {"tenant_secret_file": str(secret)}):
        other = open_plugin(node, **params)
        assert get(other, names(1))[0] == [False], params
        other.close()


def test_the_model_setting_stands_in_for_the_name_in_the_key(node):
    here, there = open_plugin(node, model="llama"), open_plugin(node, model="llama")
    put(here, names(2, model="org/llama"), objects(2))
    assert get(there, names(2, model="a local path"))[0] == [True, True]
    here.close()
    there.close()


def test_what_ends_without_the_node_makes_the_descriptor_readable(node):
    node.kill()
    plugin = open_plugin(node)
    assert completion(plugin, plugin.submit_batch_exists(names(2)))[2] == [False, False]
    assert get(plugin, names(2))[0] == [False, False]
    ok, error, bools = put(plugin, names(2), objects(2))
    assert not ok
    assert error
    assert bools is None
    plugin.close()


def test_a_node_left_alone_answers_misses_at_once(node):
    plugin = open_plugin(node, lookup_timeout_ms=200)
    node.freeze()
    try:
        for _ in range(3):
            assert completion(plugin, plugin.submit_batch_exists(names(1)))[2] == [False]
        assert plugin.stats()["pauses"] == 1
        assert put(plugin, names(1), objects(1))[0] is False
    finally:
        node.thaw()
    wait_until(lambda: put(plugin, names(1), objects(1))[0] or get(plugin, names(1))[0] == [True], "it is back", 30)
    plugin.close()


def test_a_save_beyond_the_limit_is_refused_and_told(node):
    plugin = open_plugin(node, save_bytes="1MiB", save_timeout_ms=3000)
    content = objects(2, size=700_000)
    node.freeze()
    try:
        first = plugin.submit_batch_set(names(1, "first"), [memoryview(content[0])])
        second = plugin.submit_batch_set(names(1, "second"), [memoryview(content[1])])
        assert is_readable(plugin)
        assert [one[:2] for one in plugin.drain_completions()] == [(second, False)]
    finally:
        node.thaw()
    assert completion(plugin, first)[0] is True
    assert plugin.stats()["saves_dropped"] == 1
    plugin.close()


def test_saves_are_not_limited_unless_that_is_asked_for(node):
    plugin = open_plugin(node)
    content = objects(5, size=60 << 20)  # more than the limit of other connectors, and than the node has
    numbers = [plugin.submit_batch_set(names(1, f"{i}"), [memoryview(one)]) for i, one in enumerate(content)]
    ended = {}
    while len(ended) < len(numbers):
        assert is_readable(plugin, WAIT_MS)
        ended.update({number: ok for number, ok, _, _ in plugin.drain_completions()})
    assert plugin.stats()["saves_dropped"] == 0
    assert any(ended.values())
    plugin.close()


def test_buffers_that_cannot_be_written_to_are_misses(plugin):
    put(plugin, names(1), objects(1))
    number = plugin.submit_batch_get(names(1), [memoryview(bytes(OBJECT_BYTES))])
    assert completion(plugin, number)[2] == [False]
    assert plugin.stats()["errors"] == 1


def test_closing_ends_everything_once(node):
    plugin = open_plugin(node)
    node.freeze()
    try:
        plugin.submit_batch_exists(names(1))
        plugin.close()
        plugin.close()
    finally:
        node.thaw()


@pytest.mark.parametrize("params", [{"endpoint": ""}, {"save_byte": 1}, {"lane": "pigeon"}])
def test_settings_of_no_use_are_refused(params):
    with pytest.raises(ConfigError):
        KVStoreNativePlugin(**{"endpoint": "kv://127.0.0.1:1", "dtype": "float32", **params})
