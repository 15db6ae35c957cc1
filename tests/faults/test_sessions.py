"""Sessions end, whichever way their client ends them, and leave nothing behind in the node."""

from __future__ import annotations

import pytest

import kvstore
from tests.node_process import wait_until
from tests.support.blocks import blocks, chain
from tests.support.node import ALL_LANES
from tests.support.processes import descriptors

SESSIONS = 12
# What UCX and gRPC may keep open for later, whatever the number of sessions.
SPARE_DESCRIPTORS = 6


def use(store: kvstore.Client, name: str) -> None:
    keys = chain(name, 2)
    assert store.put(keys, blocks(keys, 100_000)).all_ok
    assert store.get(keys, [bytearray(100_000), bytearray(100_000)]).all_ok


@pytest.mark.parametrize("lane", ALL_LANES)
def test_closed_clients_leave_no_session_and_no_descriptor(node, lane):
    for round_number in range(2):
        before = len(descriptors(node.pid))
        for number in range(SESSIONS):
            with kvstore.connect(node.url, lane=lane, timeout_ms=30_000) as store:
                use(store, f"{round_number} {number}")
        node.wait_for_counters("every session has ended", sessions_open=0, leases=0, reserved_bytes=0)
    # The first round pays for what is opened once.
    wait_until(lambda: len(descriptors(node.pid)) <= before + SPARE_DESCRIPTORS, "the descriptors are closed")


@pytest.mark.parametrize("lane", ALL_LANES)
def test_clients_closed_while_the_node_is_frozen(node, lane):
    stores = [kvstore.connect(node.url, lane=lane, timeout_ms=30_000) for _ in range(3)]
    for number, store in enumerate(stores):
        use(store, str(number))
    node.freeze()
    for store in stores:
        store.close()
    node.thaw()
    node.wait_for_counters("every session has ended", sessions_open=0, leases=0, reserved_bytes=0)
