"""A bit that flips in the node's memory: nobody sees it, it is counted, and the block is gone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kvstore import Status
from tests.support.blocks import Bytes, assert_same, blocks, chain
from tests.support.node import RDMA_SETTING, Node
from tests.support.processes import read_region, shared_region, write_region

COUNT = 4
SIZE = 150_000
SEED = 13
ARENA = "kvstore-arena"


def flip_a_bit(node: Node, content: Bytes, source: random.Random) -> int:
    """Finds the block in the arena by its bytes and flips one bit of it; returns which byte of the block it hit."""
    first, size = shared_region(node.pid, ARENA)
    start = read_region(node.pid, first, size).find(content.tobytes())
    assert start >= 0, "the block is not in the arena"
    at = source.randrange(content.size)
    write_region(node.pid, first + start + at, bytes([content[at] ^ 1 << source.randrange(8)]))
    return at


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    """A small one, so that a block is soon found in it."""
    with Node(tmp_path_factory.mktemp("node"), "--threads", "1", memory="16MiB", settings=RDMA_SETTING) as running:
        yield running


@pytest.mark.parametrize("verb", ["get", "borrow"])
def test_a_flipped_bit_is_a_miss_and_ends_the_block(node, patient, verb):
    source = random.Random(SEED)
    for round_number in range(5):
        names = chain(f"round {round_number}", COUNT)
        contents = blocks(names, SIZE)
        assert patient.put(names, contents).all_ok
        before, mine = node.counters, patient.stats()["client"]["corrupt"]
        hit = source.randrange(COUNT)
        where = f"seed {SEED}, round {round_number}, block {hit}, byte {flip_a_bit(node, contents[hit], source)}"
        check_reading(patient, verb, names, contents, hit, where)
        change = {"checksum_errors": 1, "quarantined_blocks": 1, "blocks": -1, "used_bytes": -SIZE // 4096 * 4096}
        expected = {name: before[name] + grown for name, grown in change.items()}
        node.wait_for_counters(f"the block is quarantined ({where})", **expected)
        assert patient.stats()["client"]["corrupt"] == mine + 1, where
        assert patient.exists(names).tolist() == [at != hit for at in range(COUNT)], where
        # The place is free for a good copy.
        assert patient.put(names, contents).cause[hit] == Status.OK
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        assert patient.get(names, buffers).all_ok
        assert_same(buffers, np.stack(contents), where)
        patient.delete(names)
    node.wait_for_counters("nothing is held", leases=0, used_bytes=0)


def check_reading(store, verb: str, names: Bytes, contents: list[Bytes], hit: int, where: str) -> None:
    """Reads all blocks: the one that was hit is a miss, the others are right."""
    if verb == "get":
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        result = store.get(names, buffers)
        found = [buffer if ok else None for buffer, ok in zip(buffers, result.ok, strict=True)]
        cause = result.cause
    else:
        borrow = store.borrow(names)
        found = [None if view is None else view.copy() for view in borrow.views]
        cause = borrow.cause
        borrow.release()
    assert cause.tolist() == [Status.CORRUPT if at == hit else Status.OK for at in range(COUNT)], where
    assert found[hit] is None, where
    for at, block in enumerate(found):
        assert at == hit or np.array_equal(block, contents[at]), where


def test_a_bit_that_flips_while_the_block_is_borrowed_harms_no_other_reader(node, patient):
    """The holder of a view sees the memory itself; whoever reads the block from then on is told."""
    names = chain("borrowed", 1)
    contents = blocks(names, SIZE)
    assert patient.put(names, contents).all_ok
    with patient.borrow(names):
        flip_a_bit(node, contents[0], random.Random(SEED))
        got = patient.get(names, np.zeros((1, SIZE), np.uint8))
        assert got.status.tolist() == [Status.MISS]
        assert got.cause.tolist() == [Status.CORRUPT]
        node.wait_for_counters("it is quarantined", quarantined_blocks=1, blocks=0)
    node.wait_for_counters("its space comes back with the last lease", leases=0, used_bytes=0)


def test_every_block_of_a_batch(node, patient):
    names = chain("all", COUNT)
    contents = blocks(names, SIZE)
    source = random.Random(SEED)
    assert patient.put(names, contents).all_ok
    for content in contents:
        flip_a_bit(node, content, source)
    assert patient.match(names) == COUNT, "match does not read the bytes"
    assert patient.get(names, np.zeros((COUNT, SIZE), np.uint8)).cause.tolist() == [Status.CORRUPT] * COUNT
    node.wait_for_counters("all are gone", quarantined_blocks=COUNT, used_bytes=0)
    assert patient.match(names) == 0
