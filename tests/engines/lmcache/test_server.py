"""`lmcache server` with the adapter as its only second tier, under LMCache's own requests and checksums."""

import threading

import pytest

pytest.importorskip("lmcache")

from tests.engines.lmcache.adapters import adapter_json
from tests.engines.lmcache.server import CHUNKS, LMCacheServer
from tests.node_process import wait_until
from tests.support.node import Node

pytestmark = pytest.mark.slow

REQUESTS = 4
WAIT_S = 60


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="512MiB") as running:
        yield running


@pytest.fixture(params=["native_plugin", "plugin"])
def server(request, node, tmp_path):
    # Both say the same: LMCache's KV here is bfloat16.
    said = {"dtype": "bfloat16"} if request.param == "native_plugin" else {}
    timeouts = {"lookup_timeout_ms": 1000, "load_timeout_ms": 2000, "save_timeout_ms": 2000}
    return LMCacheServer(tmp_path, adapter_json(request.param, endpoint=node.url, **said, **timeouts))


def wait_for_blocks(node, count):
    wait_until(lambda: node.counters["blocks"] >= count, f"{count} chunks are stored", WAIT_S)


def assert_same_bytes(requests, count, expected):
    """All requests were served, and nothing else was computed or retrieved than these bytes."""
    assert len(requests.warm_hits) == count
    assert requests.checksums, requests.printed
    assert set(requests.checksums) == set(expected.checksums), requests.printed


def test_everything_that_one_engine_stored_the_next_one_loads(node, server):
    with server.running():
        first = server.requests(0, REQUESTS)
        assert len(set(first.checksums)) == 1, first.printed
        assert first.cold_hits == [0] * REQUESTS
        wait_for_blocks(node, REQUESTS * CHUNKS)
    with server.running():
        second = server.requests(0, REQUESTS)
    assert_same_bytes(second, REQUESTS, first)
    assert second.cold_hits == second.warm_hits == [CHUNKS] * REQUESTS
    # Its own memory was empty, and is emptied of what was loaded: each chunk came from the node, twice.
    assert node.counters["hits"] == 2 * REQUESTS * CHUNKS


def test_requests_go_on_while_the_node_is_away(node, server):
    with server.running():
        first = server.requests(0, REQUESTS)
        node.kill()
        without = server.requests(REQUESTS, 2 * REQUESTS)
        assert_same_bytes(without, REQUESTS, first)
        assert without.cold_hits == [0] * REQUESTS
        node.start()
        wait_until(lambda: server.requests(100, 101) and node.counters["blocks"], "the node is used again", WAIT_S)
        back = server.requests(2 * REQUESTS, 3 * REQUESTS)
        assert_same_bytes(back, REQUESTS, first)
        wait_for_blocks(node, REQUESTS * CHUNKS)
    with server.running():
        again = server.requests(2 * REQUESTS, 3 * REQUESTS)
    assert_same_bytes(again, REQUESTS, first)
    assert again.cold_hits == [CHUNKS] * REQUESTS


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_node_lost_among_loads_and_stores_changes_no_byte(node, server, fault):
    with server.running():
        first = server.requests(0, REQUESTS)
        wait_for_blocks(node, REQUESTS * CHUNKS)
    with server.running():
        before = node.counters["hits"]

        def strike():
            wait_until(lambda: node.counters["hits"] > before, "loads are under way", WAIT_S)
            getattr(node, fault)()

        striking = threading.Thread(target=strike)
        striking.start()
        requests = server.requests(0, 3 * REQUESTS)
        striking.join()
        assert_same_bytes(requests, 3 * REQUESTS, first)
        if fault == "freeze":
            node.thaw()
