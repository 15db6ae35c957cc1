"""A node that dies, freezes or comes back while a client works: misses within the deadline, then all is well again."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import HANG_S
from tests.node_process import LANES, wait_until
from tests.support.blocks import blocks, chain
from tests.support.traffic import Traffic

RECOVERY_S = 30.0


def wait_for_more(traffic: Traffic, outcome: str, count: int = 20) -> None:
    """Waits for `count` more of "hits", "misses" or "stored"."""
    target = getattr(traffic, outcome) + count
    wait_until(lambda: getattr(traffic, outcome) >= target, f"{count} more {outcome}", RECOVERY_S)


def test_killed_and_started_again_on_the_same_port(node, impatient):
    with Traffic(impatient, "killed") as traffic:
        wait_for_more(traffic, "hits")
        node.kill()
        wait_for_more(traffic, "misses", 100)
        node.start()
        wait_for_more(traffic, "stored")
        assert not impatient.exists(traffic.names).any(), "the node kept nothing"
        traffic.write_chain()
        wait_for_more(traffic, "hits")
    assert traffic.longest_s < HANG_S
    assert node.counters["sessions_open"] == 1


@pytest.mark.parametrize("lane", LANES)
def test_killed_and_started_again_twice_in_a_row(node, impatient):
    """The second time, while the client may still be busy with finding the first."""
    with Traffic(impatient, "killed twice") as traffic:
        for _ in range(2):
            node.kill()
            node.start()
        wait_for_more(traffic, "stored")
        traffic.write_chain()
        wait_for_more(traffic, "hits")
    assert traffic.longest_s < HANG_S


@pytest.mark.parametrize("frozen_s", [0.5, 3.0], ids=["shortly", "until it counts as lost"])
def test_frozen_and_continued(node, impatient, frozen_s):
    with Traffic(impatient, "frozen") as traffic:
        wait_for_more(traffic, "hits")
        node.freeze()
        misses = traffic.misses
        time.sleep(frozen_s)
        wait_until(lambda: traffic.misses > misses, "calls end while the node is frozen", RECOVERY_S)
        node.thaw()
        wait_for_more(traffic, "hits")
        wait_for_more(traffic, "stored")
    assert traffic.longest_s < HANG_S
    node.wait_for_counters("nothing is held for calls that were given up", leases=0, reserved_bytes=0, gets_waiting=0)


@pytest.mark.parametrize("lane", LANES)
def test_frozen_and_then_killed(node, impatient):
    with Traffic(impatient, "frozen, killed") as traffic:
        node.freeze()
        wait_for_more(traffic, "misses", 4)
        node.kill()
        wait_for_more(traffic, "misses", 100)
        node.start()
        wait_for_more(traffic, "stored")
    assert traffic.longest_s < HANG_S


@pytest.mark.parametrize("lane", LANES)
def test_frozen_through_every_verb(node, impatient):
    """Each ends by itself, without an exception, and says nothing that is not so."""
    keys = chain("every verb", 4)
    contents = blocks(keys, 5000)
    assert impatient.put(keys, contents, timeout_ms=20_000).all_ok
    node.freeze()
    late = {"timeout_ms": 100}
    buffers = [bytearray(5000) for _ in keys]
    verbs = {
        "match": lambda: impatient.match(keys, **late) == 0,
        "exists": lambda: not impatient.exists(keys, **late).any(),
        "touch": lambda: not impatient.touch(keys, ttl_s=60, **late).any(),
        "delete": lambda: not impatient.delete(keys, **late).any(),
        "get": lambda: not impatient.get(keys, buffers, **late).ok.any(),
        "get that waits": lambda: not impatient.get(keys, buffers, wait_ms=60_000, **late).ok.any(),
        "borrow": lambda: not impatient.borrow(keys, **late).ok.any(),
        "put": lambda: not impatient.put(chain("frozen", 4), contents, **late).ok.any(),
        "stats": lambda: impatient.stats(**late)["node"] is None,
    }
    for name, verb in verbs.items():
        start_s = time.monotonic()
        assert verb(), name
        assert time.monotonic() - start_s < HANG_S, name
    node.thaw()
    # What the node got through before it froze, or does after it, is its own affair: the client is as good as new.
    fresh = chain("thawed", 4)
    wait_until(lambda: impatient.put(fresh, contents).all_ok, "the node answers again", RECOVERY_S)
    assert impatient.match(fresh, timeout_ms=20_000) == 4


@pytest.mark.parametrize("lane", LANES)
def test_stopped_in_the_middle_of_traffic(node, impatient):
    """SIGTERM: the node ends by itself, and clients are told."""
    with Traffic(impatient, "stopped") as traffic:
        wait_for_more(traffic, "hits")
        assert node.stop() == 0, node.log
        wait_for_more(traffic, "misses", 100)
    assert traffic.longest_s < HANG_S
    assert "Traceback" not in node.log
