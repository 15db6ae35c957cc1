"""A node, and engine stores of it that are quick to give up."""

from __future__ import annotations

import pytest

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import EngineStore
from tests.support.node import Node

LOOKUP_MS, LOAD_MS, SAVE_MS = 200, 400, 500


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), "--threads", "1", memory="128MiB") as running:
        yield running


@pytest.fixture
def node(one_node):
    """A node in which nothing has happened yet, whatever earlier tests did to it."""
    one_node.renew()
    return one_node


@pytest.fixture
def open_store(monkeypatch):
    """Makes engine stores, and closes them in the end."""
    monkeypatch.setenv("KVSTORE_CLIENT_RECONNECT_BACKOFF_MS_MAX", "100")
    monkeypatch.setenv("KVSTORE_CLIENT_CONNECT_TIMEOUT_MS", "1000")
    stores = []

    def make(endpoint, *, clock=None, **settings):
        timeouts = {"lookup_timeout_ms": LOOKUP_MS, "load_timeout_ms": LOAD_MS, "save_timeout_ms": SAVE_MS}
        config = ConnectorConfig(endpoint=endpoint, **{**timeouts, **settings})
        stores.append(EngineStore(config, **({} if clock is None else {"clock": clock})))
        return stores[-1]

    yield make
    for store in stores:
        store.close()
