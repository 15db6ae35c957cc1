"""A fork in the middle of traffic: the child may use nothing, the parent notices nothing."""

from __future__ import annotations

import pytest

import kvstore
from tests.faults.client_worker import SIZE, keys_of
from tests.support.blocks import blocks
from tests.support.node import ALL_LANES
from tests.support.worker import Worker


@pytest.mark.parametrize("lane", ALL_LANES)
def test_every_verb_is_refused_in_the_child_while_the_parent_goes_on(node, lane):
    name = f"fork {lane}"
    keys = keys_of(name, 0)
    with kvstore.connect(node.url, timeout_ms=30_000) as store:
        assert store.put(keys, blocks(keys, SIZE)).all_ok
    with Worker("tests.faults.client_worker", "fork", node.url, lane, name) as worker:
        assert worker.next_line() == "went on"
        assert worker.finish() == 0, worker.lines
    node.wait_for_counters("the children left nothing behind", sessions_open=0, leases=0)
