"""vLLM 0.30 and later: what its configuration loads by name. See docs/connectors/vllm.md."""

from kvstore.connectors.vllm.connector import KVStoreConnector
from kvstore.connectors.vllm.spec import KVStoreOffloadingSpec
from kvstore.connectors.vllm.tier import KVStoreTier

__all__ = ["KVStoreConnector", "KVStoreOffloadingSpec", "KVStoreTier"]
