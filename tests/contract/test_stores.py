"""The contract on every store: embedded, and a node process over each lane, synchronously and not."""

from __future__ import annotations

import pytest

import kvstore
from tests.contract.store_contract import StoreContract
from tests.support.blocking import BlockingAsyncClient
from tests.support.node import ALL_LANES, RDMA_SETTING, Node

MEMORY = "128MiB"
CLIENTS = {"sync": kvstore.connect, "async": BlockingAsyncClient}
# The asynchronous client differs in how it waits, which the two kinds of lane, mapped and UCX, do each in its own way.
STORES = [*((place, "sync") for place in ("embedded", *ALL_LANES)), ("embedded", "async"), ("tcp", "async")]
# The deadline of each call: far beyond what any takes, so that only a hang meets it.
TIMEOUT_MS = 30_000


@pytest.fixture(scope="module", params=STORES, ids="-".join)
def place_and_kind(request):
    return request.param


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), "--threads", "2", memory=MEMORY, settings=RDMA_SETTING) as running:
        yield running
        assert running.is_running, running.log
        assert "Traceback" not in running.log
        counters = running.counters
        assert counters["protocol_errors"] == counters["checksum_errors"] == counters["quarantined_blocks"] == 0


@pytest.fixture(scope="module")
def store(request, place_and_kind):
    place, kind = place_and_kind
    if place == "embedded":
        client = CLIENTS[kind](f"embedded://?memory={MEMORY}", timeout_ms=TIMEOUT_MS)
    else:
        client = CLIENTS[kind](request.getfixturevalue("node").url, lane=place, timeout_ms=TIMEOUT_MS)
    yield client
    client.close()


@pytest.fixture(scope="module")
def second(request, place_and_kind, store):
    place, _ = place_and_kind
    if place == "embedded":
        yield store
        return
    client = kvstore.connect(request.getfixturevalue("node").url, lane=place, timeout_ms=TIMEOUT_MS)
    yield client
    client.close()


class TestStore(StoreContract):
    def test_the_lane_is_the_one_asked_for(self, store, place_and_kind):
        place, _ = place_and_kind
        stats = store.stats()["client"]
        assert stats["lane"] == ("mapped" if place == "embedded" else place)
        transport = {"mapped": "mapped", "shm": "posix", "tcp": "tcp", "rdma-over-tcp": "tcp"}[stats["lane"]]
        assert transport in stats["endpoint"]
