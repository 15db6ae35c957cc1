"""The contract on every store: embedded, and a node process over each lane, synchronously and not."""

from __future__ import annotations

import contextlib

import pytest

import kvstore
from tests.contract.store_contract import StoreContract
from tests.support.blocking import BlockingAsyncClient
from tests.support.disk_node import DiskNode
from tests.support.node import ALL_LANES, RDMA_SETTING, Node

MEMORY = "128MiB"
# The least that the contract asks for, before a disk that has room for what goes through it.
MEMORY_BEFORE_DISK = "64MiB"
DISK_SIZE = "1GiB"
WITH_DISK = " with a disk"
CLIENTS = {"sync": kvstore.connect, "async": BlockingAsyncClient}
# The asynchronous client differs in how it waits, which the two kinds of lane, mapped and UCX, do each in its own way.
STORES = [
    *((place, "sync") for place in ("embedded", *ALL_LANES)),
    *((place, "async") for place in ("embedded", "tcp")),
    *((place + WITH_DISK, "sync") for place in ("embedded", "mapped", "tcp")),
]
# The deadline of each call: far beyond what any takes, so that only a hang meets it.
TIMEOUT_MS = 30_000


@pytest.fixture(scope="module", params=STORES, ids="-".join)
def place_and_kind(request):
    return request.param


def check(running):
    assert running.is_running, running.log
    assert "Traceback" not in running.log
    counters = running.counters
    assert counters["protocol_errors"] == counters["checksum_errors"] == counters["quarantined_blocks"] == 0
    assert counters.get("nvme_wrong_checksums", 0) == counters.get("nvme_troubles", 0) == 0


@pytest.fixture(scope="module")
def memory_node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), "--threads", "2", memory=MEMORY, settings=RDMA_SETTING) as running:
        yield running
        check(running)


@pytest.fixture(scope="module")
def disk_node(tmp_path_factory):
    with DiskNode(tmp_path_factory.mktemp("node"), memory=MEMORY_BEFORE_DISK, disk_size=DISK_SIZE) as running:
        yield running
        check(running)


@pytest.fixture(scope="module")
def connect(request, place_and_kind, tmp_path_factory):
    """`connect(kind)` is a client of the store that the parameter names; all are closed at the end."""
    place, _ = place_and_kind
    lane, has_disk = place.removesuffix(WITH_DISK), place.endswith(WITH_DISK)
    if lane == "embedded":
        url = f"embedded://?memory={MEMORY_BEFORE_DISK if has_disk else MEMORY}"
        url += f"&disk={tmp_path_factory.mktemp('disk')}&disk_size={DISK_SIZE}" if has_disk else ""
        options = {}
    else:
        url = request.getfixturevalue("disk_node" if has_disk else "memory_node").url
        options = {"lane": lane}
    with contextlib.ExitStack() as opened:
        yield lambda kind: opened.enter_context(
            contextlib.closing(CLIENTS[kind](url, timeout_ms=TIMEOUT_MS, **options))
        )


@pytest.fixture(scope="module")
def store(place_and_kind, connect):
    _, kind = place_and_kind
    return connect(kind)


@pytest.fixture(scope="module")
def second(place_and_kind, connect, store):
    place, _ = place_and_kind
    return store if place.startswith("embedded") else connect("sync")


class TestStore(StoreContract):
    @pytest.fixture
    def has_disk(self, place_and_kind):
        place, _ = place_and_kind
        return place.endswith(WITH_DISK)

    def test_the_lane_is_the_one_asked_for(self, store, place_and_kind):
        place, _ = place_and_kind
        lane = place.removesuffix(WITH_DISK)
        stats = store.stats()["client"]
        assert stats["lane"] == ("mapped" if lane == "embedded" else lane)
        transport = {"mapped": "mapped", "shm": "posix", "tcp": "tcp", "rdma-over-tcp": "tcp"}[stats["lane"]]
        assert transport in stats["endpoint"]
