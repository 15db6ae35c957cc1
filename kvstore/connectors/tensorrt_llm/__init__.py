"""TensorRT-LLM (PyTorch backend): a KV cache connector, configured by `KVSTORE_CONNECTOR_...` or a settings file.

    KvCacheConnectorConfig(
        connector_module="kvstore.connectors.tensorrt_llm",
        connector_scheduler_class="KVStoreScheduler",
        connector_worker_class="KVStoreWorker",
    )

The engine has no way to hear that a load failed: what its scheduler was promised it takes for loaded. So the scheduler
fetches the blocks of all ranks into memory that the ranks share (see `staging`) before it promises them, and the
workers only copy. docs/connectors/tensorrt_llm.md says what is supported, and that it was not run on the real engine.
"""

from kvstore.connectors.tensorrt_llm.scheduler import KVStoreScheduler
from kvstore.connectors.tensorrt_llm.worker import KVStoreWorker

__all__ = ["KVStoreScheduler", "KVStoreWorker"]
