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
from typing import TYPE_CHECKING, Any

from kvstore import errors
from kvstore.keys import Namespace
from kvstore.layout import KVLayout
from kvstore.status import Status

if TYPE_CHECKING:
    from kvstore.client import AsyncClient, Client, connect, connect_async

__all__ = [
    "AsyncClient",
    "Client",
    "KVLayout",
    "Namespace",
    "Status",
    "__version__",
    "connect",
    "connect_async",
    "errors",
]

__version__ = "0.1.0"

_CLIENT_NAMES = frozenset({"AsyncClient", "Client", "connect", "connect_async"})


def __getattr__(name: str) -> Any:
    if name not in _CLIENT_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("kvstore.client"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
