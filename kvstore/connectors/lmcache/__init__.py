"""LMCache's second tier: what it loads by `module_path` "kvstore.connectors.lmcache" (docs/connectors/lmcache.md)."""

from kvstore.connectors.lmcache.native_plugin import KVStoreNativePlugin

__all__ = ["KVStoreNativePlugin"]
