"""Engine stores that are quick to give up."""

from __future__ import annotations

import pytest

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import EngineStore

LOOKUP_MS, LOAD_MS, SAVE_MS = 200, 400, 500


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
