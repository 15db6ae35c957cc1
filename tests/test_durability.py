"""Nodes with a disk, as their users see them: what durable means, and that a disk makes memory no limit."""

import subprocess

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.config import ClientConfig
from tests.contract.keeping import Keeping
from tests.node_process import COMMAND, NodeProcess, wait_until
from tests.support.blocks import assert_same, blocks, chain
from tests.support.node import Node

MEMORY = "64MiB"
BLOCK_BYTES = 1 << 20
TIMEOUT_MS = 30_000
# Quick to come back after a restart.
CONFIG = ClientConfig(timeout_ms=TIMEOUT_MS, reconnect_backoff_ms_max=50)


def disk_flags(folder, size="512MiB"):
    (folder / "disk").mkdir(exist_ok=True)
    return ("--disk", str(folder / "disk"), "--disk-size", size)


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, *disk_flags(tmp_path), memory=MEMORY) as running:
        yield running


def connected(store):
    return store.stats()["client"]["connected"]


@pytest.fixture(scope="module", params=["embedded", "mapped", "tcp"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    if request.param == "embedded":
        (folder / "disk").mkdir()
        url = f"embedded://?memory={MEMORY}&disk={folder / 'disk'}&disk_size=512MiB"
        with kvstore.connect(url, timeout_ms=TIMEOUT_MS) as client:
            yield client
        return
    with (
        NodeProcess(folder, *disk_flags(folder), memory=MEMORY) as node,
        kvstore.connect(node.url, lane=request.param, config=CONFIG) as client,
    ):
        yield client


class TestKeeping(Keeping):
    """What the contract says of keeping, on stores with a disk."""

    @pytest.fixture
    def second(self, store):
        return store

    @pytest.fixture
    def has_disk(self):
        return True


@pytest.mark.parametrize("lane", ["mapped", "tcp"])
def test_a_put_and_a_get_may_be_larger_than_the_memory(node, lane):
    """In turns: the node takes on as much at once as it has room for."""
    names = chain(f"larger than memory, {lane}", 160)
    contents = blocks(names, BLOCK_BYTES)
    with kvstore.connect(node.url, lane=lane, config=CONFIG) as store:
        assert store.put(names, contents).all_ok
        assert store.match(names) == len(names)
        buffers = np.zeros((len(names), BLOCK_BYTES), np.uint8)
        got = store.get(names, buffers)
        assert got.all_ok, got
        for buffer, content in zip(buffers, contents, strict=True):
            assert_same(buffer, content)


def test_durable_blocks_survive_kill_9(node):
    names = chain("survivors", 40)
    contents = blocks(names, BLOCK_BYTES)
    with kvstore.connect(node.url, config=CONFIG) as store:
        assert store.put(names[:20], contents[:20], durable=True).all_ok
        assert store.put(names[20:], contents[20:]).all_ok
        assert store.flush()
        node.kill()
        node.start()
        wait_until(lambda: connected(store), "the client is back by itself", 20)
        buffers = np.zeros((len(names), BLOCK_BYTES), np.uint8)
        got = store.get(names, buffers)
        assert got.all_ok, got
        assert_same(buffers, np.stack(contents))


def test_a_flush_after_a_restart_says_no_once(node):
    """What the node had in memory alone is gone, and the node that came back knows nothing of it."""
    names = chain("restart", 2)
    contents = blocks(names, BLOCK_BYTES)
    with kvstore.connect(node.url, config=CONFIG) as store:
        assert store.put(names[:1], contents[:1]).all_ok
        assert store.flush()
        node.kill()
        assert not store.flush(timeout_ms=300)
        node.start()
        wait_until(lambda: connected(store), "the client is back by itself", 20)
        assert store.put(names[1:], contents[1:]).all_ok
        assert not store.flush()
        assert store.flush()


def test_pins_survive_a_restart(node):
    names = chain("pins", 4)
    contents = blocks(names, BLOCK_BYTES)
    with kvstore.connect(node.url, config=CONFIG) as store:
        assert store.put(names, contents, durable=True).all_ok
        assert store.pin(names[:2], owner="operator", ttl_s=600).all_ok
        node.kill()
        node.start()
        wait_until(lambda: connected(store), "the client is back by itself", 20)
        node.evict(1 << 40)
        assert store.exists(names[:2]).all()
        assert store.pin(names[:2], owner="somebody else", ttl_s=0).cause.tolist() == [Status.MISS] * 2
        assert store.pin(names[:2], owner="operator", ttl_s=0).all_ok


def test_kvstore_flush(node):
    with kvstore.connect(node.url, config=CONFIG) as store:
        names = chain("kvstore flush", 2)
        assert store.put(names, blocks(names, BLOCK_BYTES)).all_ok
    answer = subprocess.run([*COMMAND, "flush", node.url], capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == f"every block that {node.address} has acknowledged is durable\n"
