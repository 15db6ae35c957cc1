"""A node and a client that die while they greet each other: the other one does not."""

from __future__ import annotations

import random
import time

import pytest

import kvstore
from tests.node_process import LANES
from tests.support.blocks import blocks, chain
from tests.support.disk_node import CONFIG
from tests.support.node import Node
from tests.support.worker import Worker

MODULE = "tests.faults.attach_worker"
SEED = 43
SIZE = 4096


def kill_the_node(tmp_path, lane, times):
    moments = random.Random(SEED)
    with Node(tmp_path, "--threads", "1", memory="16MiB") as node, Worker(MODULE, node.url, lane) as worker:
        assert worker.next_line() == "connecting"
        for _ in range(times):
            time.sleep(moments.uniform(0.01, 0.2))
            node.kill()
            node.start()
        assert worker.finish() == 0, worker.lines


def kill_clients(tmp_path, lane, times):
    moments = random.Random(SEED)
    with Node(tmp_path, "--threads", "1", memory="16MiB") as node:
        for number in range(times):
            with Worker(MODULE, node.url, lane) as worker:
                assert worker.next_line() == "connecting"
                time.sleep(moments.uniform(0.01, 0.2))
                worker.kill()
            assert node.is_running, node.log
            with kvstore.connect(node.url, lane=lane, config=CONFIG) as store:
                names = chain(f"after {number}", 2)
                assert store.put(names, blocks(names, SIZE)).all_ok


@pytest.mark.parametrize("lane", LANES)
def test_a_node_that_is_killed(tmp_path, lane):
    kill_the_node(tmp_path, lane, 3)


@pytest.mark.parametrize("lane", LANES)
def test_a_client_that_is_killed(tmp_path, lane):
    kill_clients(tmp_path, lane, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lane", LANES)
def test_very_many_nodes_that_are_killed(tmp_path, lane):
    kill_the_node(tmp_path, lane, 60)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lane", LANES)
def test_very_many_clients_that_are_killed(tmp_path, lane):
    kill_clients(tmp_path, lane, 60)
