"""What a node takes beside its blocks: at most 64 MiB and 200 bytes a block.

All memory of its own counts, Python's and gRPC's too (RssAnon), and all shared memory but the arena: the channels of
clients on the same host. The code of libraries (RssFile) is pages of files that every process of the machine shares; it
is measured and not counted.
"""

from __future__ import annotations

import contextlib

import pytest

import kvstore
from tests.node_process import LANES
from tests.support.blocks import chain
from tests.support.node import Node
from tests.support.processes import memory_bytes, resident_bytes

ARENA = "kvstore-arena"
BLOCK_BYTES = 4096
BATCH = 1000
BLOCKS = 60_000
BYTES_A_BLOCK_MAX = 200
BYTES_MAX = 64 << 20


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="256MiB") as running:
        yield running


def fill(store: kvstore.Client) -> None:
    content = bytes(BLOCK_BYTES)
    for at in range(0, BLOCKS, BATCH):
        assert store.put(chain(f"batch {at}", BATCH), [content] * BATCH).all_ok


def overhead_bytes(node: Node) -> dict[str, int]:
    """Memory of each kind that the node takes beside its arena."""
    return {
        "own": memory_bytes(node.pid, "RssAnon"),
        "channels": memory_bytes(node.pid, "RssShmem") - resident_bytes(node.pid, ARENA),
        "code": memory_bytes(node.pid, "RssFile"),
    }


def test_index_and_process(node, record_property):
    empty = overhead_bytes(node)
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(kvstore.connect(node.url, lane=lane, timeout_ms=30_000)) for lane in LANES]
        fill(stores[0])
        for at, store in enumerate(stores):
            names = chain(f"batch {at * BATCH}", BATCH)
            assert store.get(names, [bytearray(BLOCK_BYTES) for _ in names]).all_ok
        counters, full = node.counters, overhead_bytes(node)
    assert (counters["blocks"], counters["evicted_blocks"]) == (BLOCKS, 0)
    index_bytes = counters["index_bytes"] / BLOCKS
    measured = f"{index_bytes:.1f} bytes of index a block; bytes of the empty node {empty}, of the full one {full}"
    record_property("memory overhead", measured)
    assert index_bytes <= BYTES_A_BLOCK_MAX, measured
    assert full["own"] + full["channels"] <= BYTES_MAX + BYTES_A_BLOCK_MAX * BLOCKS, measured


def test_memory_is_given_back_and_used_again(node):
    """Filling, emptying and filling again takes no more than filling once: nothing leaks a block at a time."""
    with kvstore.connect(node.url, timeout_ms=30_000) as store:
        fill(store)
        once = node.counters["index_bytes"]
        own_once = memory_bytes(node.pid, "RssAnon")
        for _ in range(2):
            assert node.evict(1 << 40) == BLOCKS * BLOCK_BYTES
            fill(store)
        assert node.counters["index_bytes"] <= once * 1.01
        # A quarter of what one round of leaked index entries would be.
        assert memory_bytes(node.pid, "RssAnon") <= own_once + BLOCKS * BYTES_A_BLOCK_MAX // 4
