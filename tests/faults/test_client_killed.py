"""kill -9 of a client: no part of a block becomes visible, and nothing of what it held stays taken."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

import kvstore
from tests.faults.client_worker import BATCHES, COUNT, DELETING, SIZE, keys_of
from tests.node_process import wait_until
from tests.support.blocks import assert_same, blocks
from tests.support.node import ALL_LANES
from tests.support.worker import Worker

MODULE = "tests.faults.client_worker"
SEED = 20
ROUNDS_MAX = 12
INTERRUPTED_MIN = 2
NOTHING_HELD = {"reserved_bytes": 0, "leased_bytes": 0, "leases": 0, "gets_waiting": 0, "sessions_open": 1}


@pytest.fixture
def observer(node):
    """A session that stays; no worker ever reads through it."""
    with kvstore.connect(node.url, timeout_ms=30_000) as store:
        yield store


def batches_there(lines: list[str]) -> set[int]:
    """The batches that were acknowledged since the worker last began to delete."""
    started = max((at for at, line in enumerate(lines) if line in {"ready", DELETING}), default=0)
    return {int(line) for line in lines[started + 1 :]}


class TestInTheMiddleOfAPut:
    @pytest.mark.parametrize("lane", ALL_LANES)
    def test_only_whole_blocks_are_visible_and_all_space_is_accounted_for(self, node, observer, lane):
        moments = random.Random(SEED)
        interrupted = 0
        for number in range(ROUNDS_MAX):
            name = f"seed {SEED}, {lane}, round {number}"
            aborted = node.counters["put_aborted"]
            with Worker(MODULE, "put", node.url, lane, name) as worker:
                assert worker.next_line() == "ready"
                time.sleep(moments.uniform(0.01, 0.1))
                worker.kill()
                acknowledged = batches_there(worker.lines)
            after = node.wait_for_counters(f"all is given back ({name})", **NOTHING_HELD)
            self.check_what_is_left(node, observer, name, acknowledged)
            interrupted += after["put_aborted"] > aborted
            if interrupted == INTERRUPTED_MIN:
                break
        assert interrupted >= INTERRUPTED_MIN, f"no put was under way when its client was killed (seed {SEED})"

    def check_what_is_left(self, node, observer, name, acknowledged):
        buffer = np.empty((1, SIZE), np.uint8)
        visible = 0
        for batch in range(BATCHES):
            keys = keys_of(name, batch)
            contents, present = blocks(keys, SIZE), observer.exists(keys)
            assert present.all() or batch not in acknowledged, f"an acknowledged block is gone ({name})"
            for at in np.flatnonzero(present):
                assert observer.get(keys[at : at + 1], buffer).all_ok
                assert_same(buffer, contents[at], f"{name}, batch {batch}, block {at}")
            visible += int(present.sum())
        counters = node.counters
        assert (counters["blocks"], counters["used_bytes"]) == (visible, visible * SIZE), name
        assert counters["checksum_errors"] == counters["quarantined_blocks"] == 0
        for batch in range(BATCHES):
            observer.delete(keys_of(name, batch))
        assert node.counters["used_bytes"] == 0, name


class TestInTheMiddleOfReading:
    # Beyond its end a borrow holds leases over the mapped lane only; elsewhere the bytes have been sent by then.
    @pytest.mark.parametrize(("verb", "lane"), [*(("get", lane) for lane in ALL_LANES), ("borrow", "mapped")])
    def test_leases_end(self, node, observer, lane, verb):
        moments = random.Random(SEED)
        name = f"{lane} {verb}"
        keys = keys_of(name, 0)
        assert observer.put(keys, blocks(keys, SIZE)).all_ok
        for number in range(2):
            with Worker(MODULE, verb, node.url, lane, name) as worker:
                assert worker.next_line() == "ready"
                if verb == "borrow":
                    wait_until(lambda: node.counters["leases"] >= 4, "the borrow is held")
                worker.next_line()
                time.sleep(moments.uniform(0, 0.05))
                worker.kill()
            node.wait_for_counters(f"no lease is left (seed {SEED}, round {number})", **NOTHING_HELD)
        assert observer.match(keys) == COUNT
        assert node.evict(1 << 40) == COUNT * SIZE, "a block was still held by somebody"

    @pytest.mark.parametrize("lane", ALL_LANES)
    def test_a_client_that_waited_for_a_block(self, node, observer, lane):
        with Worker(MODULE, "wait", node.url, lane, "never") as worker:
            assert worker.next_line() == "ready"
            wait_until(lambda: node.counters["gets_waiting"] == 1, "the get waits at the node")
            worker.kill()
        node.wait_for_counters("nobody waits any more", **NOTHING_HELD)
        keys = keys_of("never", 0)
        assert observer.put(keys, blocks(keys, SIZE)).all_ok
        assert observer.delete(keys).all()
        node.wait_for_counters("the late block held nothing", used_bytes=0, **NOTHING_HELD)
