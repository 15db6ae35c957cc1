"""A buffer that was handed back is the engine's again: whatever a frozen node sends later must not reach it."""

from __future__ import annotations

import random
import threading
import time

import numpy as np

from kvstore import Status
from tests.faults.conftest import HANG_S
from tests.node_process import wait_until
from tests.support.blocks import assert_same, blocks, chain

COUNT = 8
SIZE = 4 << 20
SEED = 7
PATTERN = 0x5A
ROUNDS_MAX = 40
INTERRUPTED_MIN = 4


def test_nothing_is_written_to_a_buffer_after_its_get_has_ended(node, impatient, lane):
    """Freezes the node while it is sending; then the buffers are used for something else, and the node goes on."""
    moments = random.Random(SEED)
    keys = chain("late", COUNT)
    contents = blocks(keys, SIZE)
    assert impatient.put(keys, contents, timeout_ms=20_000).all_ok
    interrupted = 0
    for number in range(ROUNDS_MAX if lane != "mapped" else INTERRUPTED_MIN):
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        freezer = threading.Timer(moments.uniform(0, 0.015), node.freeze)
        freezer.start()
        start_s = time.monotonic()
        got = impatient.get(keys, buffers)
        elapsed_s = time.monotonic() - start_s
        freezer.join()
        where = f"{lane}, seed {SEED}, round {number}"
        assert elapsed_s < HANG_S, where
        for at in np.flatnonzero(got.ok):
            assert_same(buffers[at], contents[at], where)
        interrupted += not got.all_ok
        buffers[:] = PATTERN
        node.thaw()
        wait_until(lambda: impatient.match(keys) == COUNT, f"the node answers again ({where})", 30)
        node.wait_for_counters(f"the node has ended its sends ({where})", leases=0)
        assert (buffers == PATTERN).all(), f"a buffer was written to after it was handed back ({where})"
        if interrupted == INTERRUPTED_MIN:
            break
    # Over the mapped lane the client copies by itself: a frozen node holds up nothing but its answer.
    if lane != "mapped":
        assert interrupted == INTERRUPTED_MIN, f"too few gets were under way when the node froze (seed {SEED})"
    if lane in {
        "shm",
        "tcp",
    }:  # with RDMA, where the card writes to the buffer, the connection is closed under it first
        assert impatient.stats()["client"]["late_chunks"] > 0, "no byte came late, so nothing was tested"


def test_a_request_given_up_while_the_node_was_frozen(node, impatient, lane):
    """The node finds request and cancellation together, with another request for the same buffer behind them."""
    keys = chain("given up", COUNT)
    contents = blocks(keys, SIZE)
    assert impatient.put(keys, contents, timeout_ms=20_000).all_ok
    for _ in range(3):
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        node.freeze()
        got = impatient.get(keys, buffers)
        assert set(got.cause.tolist()) <= {Status.TIMEOUT, Status.UNAVAILABLE}
        reading = threading.Thread(
            target=impatient.get, args=(keys[::-1].copy(), buffers), kwargs={"timeout_ms": 20_000}
        )
        reading.start()
        node.thaw()
        reading.join(60)
        assert not reading.is_alive()
        for buffer, content in zip(buffers, contents[::-1], strict=True):
            assert_same(buffer, content, lane)
        buffers[:] = PATTERN
        assert impatient.match(keys, timeout_ms=20_000) == COUNT
        node.wait_for_counters("the node has ended its sends", leases=0)
        assert (buffers == PATTERN).all()


def test_a_put_given_up_leaves_the_old_bytes_or_none(node, impatient, lane):
    """Its buffers are overwritten while the node is frozen: what it finds when it goes on must not become a block."""
    moments = random.Random(SEED)
    for number in range(4):
        where = f"{lane}, seed {SEED}, round {number}"
        keys = chain(f"put {number}", COUNT)
        contents = np.stack(blocks(keys, SIZE))
        sent = contents.copy()
        freezer = threading.Timer(moments.uniform(0, 0.01), node.freeze)
        freezer.start()
        put = impatient.put(keys, sent)
        freezer.join()
        sent[:] = PATTERN
        node.thaw()
        wait_until(lambda: impatient.exists(chain("other", 1), timeout_ms=1000) is not None, where, 30)
        node.wait_for_counters(f"nothing is being written ({where})", reserved_bytes=0)
        present = impatient.exists(keys, timeout_ms=20_000)
        assert present[put.ok].all(), where
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        got = impatient.get(keys, buffers, timeout_ms=20_000)
        assert (got.ok == present).all(), where
        for at in np.flatnonzero(present):
            assert_same(buffers[at], contents[at], where)
        impatient.delete(keys, timeout_ms=20_000)
    assert node.counters["quarantined_blocks"] == 0
