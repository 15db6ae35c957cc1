"""Several disks: blocks lie on all of them, and what happens to one costs what lay there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import wait_until
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.disk_node import CONFIG, DiskNode, check_disk

SIZE = 100_000
COUNT = 200
HEALING_S = 30.0


@pytest.fixture
def node(tmp_path):
    with DiskNode(tmp_path, disks=[tmp_path / "one", tmp_path / "two"], disk_size="128MiB") as running:
        yield running


@pytest.fixture
def store(node):
    with kvstore.connect(node.url, config=CONFIG) as client:
        yield client


def come_back(node, store):
    node.kill()
    node.start()
    wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 20)


def there(store, names):
    """Which of the blocks are there, all with their exact bytes."""
    found = np.zeros(len(names), bool)
    buffers = np.empty((10, SIZE), np.uint8)
    for at in range(0, len(names), 10):
        got = store.get(names[at : at + 10], buffers)
        for number in np.flatnonzero(got.ok):
            assert_same(buffers[number], block(names[at + number], SIZE))
        found[at : at + 10] = got.ok
    return found


def test_losing_one_costs_what_lay_there(node, store):
    names = chain("several", COUNT)
    assert store.put(names, blocks(names, SIZE), durable=True).all_ok
    node.kill()
    held = [check_disk(disk)["sound"]["blocks"] for disk in node.disks]
    assert sum(held) == COUNT
    assert min(held) > 0, "blocks are spread over all disks"
    shutil.rmtree(node.disks[1])
    node.start()
    wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 20)
    found = there(store, names)
    assert found.sum() == held[0]
    assert store.put(names[~found], blocks(names[~found], SIZE), durable=True).all_ok
    come_back(node, store)
    assert there(store, names).all()


def test_the_others_take_what_one_in_trouble_does_not(node, store):
    away = node.disks[1].with_name("away")
    node.disks[1].rename(away)
    names = chain("one disk", COUNT)
    causes = []
    for at in range(0, COUNT, 10):
        put = store.put(names[at : at + 10], blocks(names[at : at + 10], SIZE), durable=True)
        causes += put.cause.tolist()
    assert set(causes) == {Status.OK}, "one disk is enough"
    node.wait_for_counters("one disk is in trouble", nvme_disks_in_trouble=1)
    away.rename(node.disks[1])
    node.wait_for_counters("both disks are healthy", HEALING_S, nvme_disks_in_trouble=0)
    more = chain("both disks", COUNT)
    assert store.put(more, blocks(more, SIZE), durable=True).all_ok
    come_back(node, store)
    assert there(store, np.concatenate((names, more))).all()
