"""Borrowed bytes never change under their reader, whatever becomes of its client, of the session and of the node."""

from __future__ import annotations

import numpy as np
import pytest

import kvstore
from kvstore.config import ClientConfig
from tests.node_process import wait_until
from tests.support.blocks import Bytes, assert_same, blocks, chain
from tests.support.node import ALL_LANES, RDMA_SETTING, Node

COUNT = 4
SIZE = 1 << 20
NOTHING_HELD = {"sessions_open": 0, "leases": 0, "leased_bytes": 0}


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    """A small one, which is soon written over from end to end."""
    folder = tmp_path_factory.mktemp("node")
    with Node(folder, "--threads", "1", memory="16MiB", settings=RDMA_SETTING) as running:
        yield running


def lend(node: Node, lane: str) -> tuple[kvstore.Client, kvstore.client.Borrow, list[Bytes]]:
    """A client with blocks borrowed, and what they hold."""
    config = ClientConfig(lane=lane, timeout_ms=500, connect_timeout_ms=10_000, reconnect_backoff_ms_max=50)
    store = kvstore.connect(node.url, config=config)
    keys = chain("lent", COUNT)
    contents = blocks(keys, SIZE)
    assert store.put(keys, contents, timeout_ms=20_000).all_ok
    borrow = store.borrow(keys, timeout_ms=20_000)
    assert borrow.all_ok
    return store, borrow, contents


def write_over_everything(node: Node) -> None:
    """Evicts whatever may go and fills the store with other bytes, twice."""
    with kvstore.connect(node.url, timeout_ms=30_000) as other:
        for number in range(2):
            node.evict(1 << 40)
            names = chain(f"filler {number}", 16)
            other.put(names, np.full((16, SIZE), number + 1, np.uint8))


def check_views(borrow: kvstore.client.Borrow, contents: list[Bytes]) -> None:
    for view, expected in zip(borrow.views, contents, strict=True):
        assert_same(view, expected, "borrowed block")


@pytest.mark.parametrize("lane", ALL_LANES)
def test_the_client_is_closed(node, lane):
    store, borrow, contents = lend(node, lane)
    store.close()
    write_over_everything(node)
    check_views(borrow, contents)
    assert (node.counters["leases"] > 0) == (lane == "mapped"), "elsewhere the views are memory of the client"
    borrow.release()
    node.wait_for_counters("everything is given back", **NOTHING_HELD)


@pytest.mark.parametrize("lane", ["mapped", "tcp"])
def test_the_session_is_lost_and_another_one_opened(node, lane):
    store, borrow, contents = lend(node, lane)
    with store:
        node.freeze()
        wait_until(
            lambda: store.match(chain("lent", 1)) == 0 and not store.stats(timeout_ms=1)["client"]["connected"],
            "it is lost",
        )
        node.thaw()
        wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 30)
        write_over_everything(node)
        check_views(borrow, contents)
        borrow.release()
        node.wait_for_counters("only the new session is left", sessions_open=1, leases=0, leased_bytes=0)
    node.wait_for_counters("everything is given back", **NOTHING_HELD)


@pytest.mark.parametrize("lane", ["mapped", "tcp"])
def test_the_node_is_killed_and_another_one_started(node, lane):
    store, borrow, contents = lend(node, lane)
    with store:
        node.kill()
        check_views(borrow, contents)
        node.start()
        wait_until(lambda: store.stats()["client"]["connected"], "the client is back", 30)
        write_over_everything(node)
        check_views(borrow, contents)
        borrow.release()
        assert store.match(chain("filler 1", 16), timeout_ms=20_000) > 0
    node.wait_for_counters("everything is given back", **NOTHING_HELD)
