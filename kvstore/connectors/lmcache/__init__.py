"""LMCache's second tier: what it loads by `module_path` "kvstore.connectors.lmcache" (docs/connectors/lmcache.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore.connectors.lmcache.native_plugin import KVStoreNativePlugin

if TYPE_CHECKING:
    from kvstore.connectors.lmcache.l2_adapter import KVStoreL2Adapter

__all__ = ["KVStoreL2Adapter", "KVStoreNativePlugin"]


def __getattr__(name: str) -> Any:
    # It is a subclass of LMCache's interface; the other class needs nothing of LMCache.
    if name == "KVStoreL2Adapter":
        from kvstore.connectors.lmcache.l2_adapter import KVStoreL2Adapter

        return KVStoreL2Adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
