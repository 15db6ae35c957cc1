"""SGLang: the store as a HiCache storage backend, loaded by `--hicache-storage-backend dynamic`.

See docs/connectors/sglang.md for the flags. Needs SGLang 0.5.20 or newer in the environment.
"""

from kvstore.connectors.sglang.hicache import KVStoreHiCache

__all__ = ["KVStoreHiCache"]
