"""Writers that outrun the disk are slowed down or told so within their deadline; nothing acknowledged is lost."""

from __future__ import annotations

import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import GRACE_S
from tests.support.blocks import assert_same, block, chain
from tests.support.disk_node import CONFIG, MIB, DiskNode, assert_accounts, assert_sound

ANSWERS = {Status.OK, Status.EXISTS, Status.BUSY, Status.TIMEOUT}


def burst(store, names, *, timeout_ms, at_once=4):
    """Writes a block of 1 MiB under each name as fast as it goes; returns which were acknowledged."""
    acknowledged = np.zeros(len(names), bool)
    for at in range(0, len(names), at_once):
        here = slice(at, at + at_once)
        started_s = time.monotonic()
        put = store.put(names[here], [block(name, MIB) for name in names[here]], timeout_ms=timeout_ms)
        assert time.monotonic() - started_s < timeout_ms / 1000 + GRACE_S
        assert set(put.cause.tolist()) <= ANSWERS, put
        acknowledged[here] = put.ok
    return acknowledged


def assert_survive(node, names):
    with kvstore.connect(node.url, config=CONFIG) as store:
        buffer = np.empty((1, MIB), np.uint8)
        for at in range(len(names)):
            assert store.get(names[at : at + 1], buffer).all_ok, f"block {at} of {len(names)} is lost"
            assert_same(buffer, block(names[at], MIB))


def outrun(node, count):
    """Nobody reads, nothing is durable by request: what is acknowledged stays, in memory or on disk, and survives."""
    names = chain("burst", count)
    with node:
        with kvstore.connect(node.url, config=CONFIG) as store:
            assert burst(store, names, timeout_ms=60_000).all(), "writers with time enough are only slowed down"
            assert store.exists(names).all()
            assert store.flush(timeout_ms=60_000)
        node.kill()
        assert_sound(node)
        node.restart()
        assert_survive(node, names)
        assert_accounts(node, [MIB] * count)


def test_a_burst_of_blocks_that_memory_has_no_room_for(tmp_path):
    slow = DiskNode(tmp_path, memory="16MiB", disk_size="128MiB").fail_at("disk.write=pause:10")
    outrun(slow, 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rules", ["", "disk.write=pause:5"], ids=["disk as it is", "slow disk"])
def test_600_blocks_of_1_mib_into_256_mib(tmp_path, rules):
    outrun(DiskNode(tmp_path, memory="256MiB", disk_size="1GiB").fail_at(rules), 600)


@pytest.mark.parametrize("lane", ["mapped", "tcp"])
def test_writers_in_a_hurry_are_told(tmp_path, lane):
    """Their deadline is far too short for the disk: some are BUSY, and those that were not are on disk in the end."""
    names = chain("hurry", 48)
    with DiskNode(tmp_path, memory="16MiB", disk_size="128MiB").fail_at("disk.write=pause:40") as node:
        with kvstore.connect(node.url, lane=lane, config=CONFIG) as store:
            acknowledged = burst(store, names, timeout_ms=100)
            assert 8 <= acknowledged.sum() < len(names)
            assert store.exists(names[acknowledged]).all()
            assert store.flush(timeout_ms=60_000)
        node.kill()
        node.restart()
        assert_survive(node, names[acknowledged])


def test_a_disk_that_stands_still(tmp_path):
    """Memory fills up with what cannot leave; every call ends in time all the same, and the disk goes on later."""
    names = chain("standstill", 24)
    with DiskNode(tmp_path, memory="16MiB", disk_size="64MiB").fail_at("disk.write=pause:1500@2") as node:
        with kvstore.connect(node.url, config=CONFIG) as store:
            acknowledged = burst(store, names, timeout_ms=200)
            assert store.exists(names[acknowledged]).all()
            durable = store.put(names[:1], [block(names[0], MIB)], durable=True, timeout_ms=100)
            assert durable.cause[0] in {Status.EXISTS, Status.TIMEOUT, Status.BUSY}
            assert store.flush(timeout_ms=60_000)
            later = burst(store, names, timeout_ms=30_000)
            assert (acknowledged | later).all()
            assert store.flush(timeout_ms=60_000)
        node.kill()
        node.restart()
        assert_survive(node, names)


class TestToldToStop:
    """SIGTERM while the disk lags: what was acknowledged is brought to disk, as far as there is time."""

    NAMES = chain("told to stop", 7)

    def stop_in_the_middle(self, node):
        with kvstore.connect(node.url, config=CONFIG) as store:
            assert burst(store, self.NAMES, timeout_ms=60_000).all()
        assert node.counters["write_queue_blocks"] > 0
        assert node.stop() == 0
        assert_sound(node)
        node.restart()

    def test_with_time_enough(self, tmp_path):
        with DiskNode(tmp_path, disk_size="32MiB").fail_at("disk.write=pause:100") as node:
            self.stop_in_the_middle(node)
            assert_survive(node, self.NAMES)
            assert not node.warnings

    def test_with_too_little_time(self, tmp_path):
        node = DiskNode(tmp_path, disk_size="32MiB", settings="shutdown_flush_ms = 100")
        with node.fail_at("disk.write=pause:300"):
            self.stop_in_the_middle(node)
            assert [line for line in node.warnings if "not all blocks are on disk" in line]
            assert 0 < node.counters["nvme_blocks"] < len(self.NAMES)
            assert_accounts(node, [MIB] * node.counters["nvme_blocks"])
