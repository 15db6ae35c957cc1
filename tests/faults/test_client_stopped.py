"""SIGSTOP of a client in the middle of its work: the others do not notice, and it goes on where it was."""

from __future__ import annotations

import random
import time

import pytest

import kvstore
from tests.faults.client_worker import COUNT, SIZE, keys_of
from tests.faults.conftest import HANG_S
from tests.node_process import wait_until
from tests.support.blocks import blocks, chain
from tests.support.node import ALL_LANES
from tests.support.traffic import Traffic
from tests.support.worker import Worker

MODULE = "tests.faults.client_worker"
SEED = 11
MOMENTS = 50


@pytest.mark.parametrize("lane", ALL_LANES)
@pytest.mark.parametrize(
    "frozen_s",
    [
        pytest.param(0.5, id="shortly"),
        pytest.param(2.5, id="beyond the silence that ends a session"),
        pytest.param(13.0, id="beyond what the node waits for a reader", marks=pytest.mark.slow),
    ],
)
def test_others_do_not_notice_and_it_goes_on(node, lane, frozen_s):
    name = f"stopped {lane}"
    keys = keys_of(name, 0)
    with kvstore.connect(node.url, lane=lane, timeout_ms=10_000) as store:
        assert store.put(keys, blocks(keys, SIZE)).all_ok
        with Worker(MODULE, "get", node.url, lane, name) as worker, Traffic(store, "beside it") as traffic:
            for _ in range(10):
                worker.next_line()
            worker.freeze()
            hits = traffic.hits
            time.sleep(frozen_s)
            wait_until(lambda: traffic.hits >= hits + 20, "the others are served")
            worker.thaw()
            read = len(worker.lines)
            wait_until(lambda: len(worker.lines) >= read + 20, "it goes on", 30)
            assert worker.finish() == 0, worker.lines
            missed = int(worker.lines[-1].removeprefix("missed "))
            assert traffic.misses == 0
            assert traffic.longest_s < HANG_S
        # A session that was given up costs a batch, or two while it is opened again.
        assert missed <= 2 * COUNT or frozen_s > 1
    node.wait_for_counters("all sessions have ended", sessions_open=0, leases=0, reserved_bytes=0)


@pytest.mark.parametrize("lane", ALL_LANES)
@pytest.mark.parametrize("verb", ["put", "get"])
def test_at_any_moment_of_its_work_others_are_served(node, lane, verb):
    """Nothing that clients share, such as a queue, may be held by one of them while it stands still."""
    moments = random.Random(SEED)
    name = f"any moment {lane}"
    keys = keys_of(name, 0)
    beside = chain("beside", 2)
    with kvstore.connect(node.url, lane=lane, timeout_ms=10_000) as store:
        assert store.put(beside, blocks(beside, 100_000)).all_ok
        assert verb == "put" or store.put(keys, blocks(keys, SIZE)).all_ok
        with Worker(MODULE, verb, node.url, lane, name) as worker:
            assert worker.next_line() == "ready"
            for number in range(MOMENTS):
                time.sleep(moments.uniform(0, 0.01))
                worker.freeze()
                assert store.match(beside) == 2, f"seed {SEED}, moment {number}: an idle client holds up others"
                worker.thaw()
            # Dead at a moment like these, it leaves the way open for others too.
            worker.freeze()
            worker.kill()
        assert store.match(beside) == 2
        with kvstore.connect(node.url, lane=lane, timeout_ms=10_000) as late:
            assert late.match(beside) == 2


@pytest.mark.parametrize("lane", ALL_LANES)
def test_it_is_killed_while_it_is_stopped(node, lane):
    name = f"stopped, killed {lane}"
    keys = keys_of(name, 0)
    with kvstore.connect(node.url, lane=lane, timeout_ms=10_000) as store:
        assert store.put(keys, blocks(keys, SIZE)).all_ok
        with Worker(MODULE, "borrow", node.url, lane, name) as worker:
            for _ in range(5):
                worker.next_line()
            worker.freeze()
            worker.kill()
        node.wait_for_counters("no lease is left", sessions_open=1, leases=0, leased_bytes=0)
        assert store.match(keys) == COUNT
