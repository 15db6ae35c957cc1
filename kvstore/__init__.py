"""kvstore: a distributed store for the KV cache of LLM inference.

    store = kvstore.connect("kv://127.0.0.1:7400")
    space = kvstore.Namespace(model="...", revision="...", layout=kvstore.KVLayout(...))
    keys = space.chain(token_ids)
    result = store.get(keys, buffers)  # result.status: one kvstore.Status a key; a miss is a value

Names, layouts, statuses and errors are pure Python. The clients need the native core, which is loaded when one of them
is first asked for.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kvstore import errors
from kvstore.status import Status

if TYPE_CHECKING:
    from kvstore.client import AsyncClient, Client, PolledClient, connect, connect_async, connect_polled
    from kvstore.keys import Namespace
    from kvstore.layout import KVLayout

__all__ = [
    "AsyncClient",
    "Client",
    "KVLayout",
    "Namespace",
    "PolledClient",
    "Status",
    "__version__",
    "connect",
    "connect_async",
    "connect_polled",
    "errors",
]

__version__ = "0.1.0"

# Loaded when they are first asked for: a node needs neither the client nor numpy.
_ROOMS = MappingProxyType(
    {
        "AsyncClient": "kvstore.client",
        "Client": "kvstore.client",
        "KVLayout": "kvstore.layout",
        "Namespace": "kvstore.keys",
        "PolledClient": "kvstore.client",
        "connect": "kvstore.client",
        "connect_async": "kvstore.client",
        "connect_polled": "kvstore.client",
    }
)


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
