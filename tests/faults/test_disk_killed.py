"""kill -9 of a node with a disk, at random moments under load: what it promised is there, and nothing else is wrong."""

from __future__ import annotations

import random
import time

import pytest

import kvstore
from tests.faults.disk_journal import Journal
from tests.faults.disk_load import Load
from tests.support.disk_node import CONFIG, DiskNode, assert_accounts, assert_sound

SEED = 31
LIFE_S = (0.05, 0.8)
MEMORY = "16MiB"
# Too large for anything to be evicted from disk, and so small that all the time something is. DRAM always evicts.
DISKS = {"roomy": ("256MiB", False), "tight": ("32MiB", True)}


def kill_often(node, times, seed, *, evictable):
    """Kills the node so often in the middle of its work; looks at all that it may know, each time."""
    moments = random.Random(seed)
    journal = Journal(evictable=evictable)
    with node:
        for number in range(times):
            with Load(node.url, journal, seed * 1_000_000 + number):
                time.sleep(moments.uniform(*LIFE_S))
                node.kill()
            assert_sound(node)
            node.start()
            check(node, journal)
        assert "Traceback" not in node.log
        assert not node.warnings, node.warnings


def check(node, journal):
    with kvstore.connect(node.url, config=CONFIG) as store:
        assert_accounts(node, journal.check(store))
        journal.tidy(store)
        counters = node.counters
        assert counters["nvme_troubles"] == counters["nvme_wrong_checksums"] == 0
        assert journal.evictable or counters["nvme_evicted_blocks"] == 0


@pytest.mark.parametrize("disk", DISKS)
def test_at_random_moments(tmp_path, disk):
    disk_size, evictable = DISKS[disk]
    kill_often(DiskNode(tmp_path, memory=MEMORY, disk_size=disk_size), 5, SEED, evictable=evictable)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("disk", DISKS)
def test_at_very_many_random_moments(tmp_path, disk):
    disk_size, evictable = DISKS[disk]
    kill_often(DiskNode(tmp_path, memory=MEMORY, disk_size=disk_size), 100, SEED + 1, evictable=evictable)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_with_several_disks(tmp_path):
    node = DiskNode(tmp_path, memory=MEMORY, disks=[tmp_path / "one", tmp_path / "two"], disk_size="384MiB")
    kill_often(node, 30, SEED + 2, evictable=False)
