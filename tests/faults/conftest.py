"""What every fault test needs: a node to hurt and clients that are quick to give up and to come back."""

from __future__ import annotations

import pytest

import kvstore
from kvstore.config import ClientConfig
from tests.support.node import ALL_LANES, RDMA_SETTING, Node

# The deadline of a call in these tests. On a busy machine a call may end later, yet never by a multiple.
TIMEOUT_MS = 300
HANG_S = 10 * TIMEOUT_MS / 1000


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    """The node of a module, which starting one for each test would slow down. Modules may have one of their own."""
    folder = tmp_path_factory.mktemp("node")
    with Node(folder, "--threads", "1", memory="256MiB", settings=RDMA_SETTING) as running:
        yield running


@pytest.fixture
def node(one_node):
    """A node in which nothing has happened yet, whatever earlier tests did to it."""
    one_node.renew()
    return one_node


@pytest.fixture(params=ALL_LANES)
def lane(request):
    return request.param


@pytest.fixture
def impatient(node, lane):
    """A client over each lane whose calls last 300 ms."""
    config = ClientConfig(lane=lane, timeout_ms=TIMEOUT_MS, connect_timeout_ms=10_000, reconnect_backoff_ms_max=100)
    with kvstore.connect(node.url, config=config) as store:
        yield store


@pytest.fixture
def patient(node, lane):
    """A client over each lane to which a slow machine makes no difference."""
    with kvstore.connect(node.url, lane=lane, timeout_ms=30_000) as store:
        yield store
