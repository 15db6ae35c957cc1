"""The names that TensorRT-LLM publishes for connectors, wherever its version has them."""

from __future__ import annotations

try:
    import tensorrt_llm
    from tensorrt_llm._utils import mpi_rank

    try:
        from tensorrt_llm._torch.pyexecutor.connectors.kv_cache_connector import (
            KvCacheConnectorScheduler,
            KvCacheConnectorWorker,
            RequestData,
        )
    except ModuleNotFoundError:  # up to 1.3
        from tensorrt_llm._torch.pyexecutor.kv_cache_connector import (
            KvCacheConnectorScheduler,
            KvCacheConnectorWorker,
            RequestData,
        )
except ImportError as error:
    raise ImportError("this connector needs tensorrt_llm, with the KV cache connectors of 1.1 or later") from error

__all__ = ["ENGINE_SALTS", "ENGINE_VERSION", "KvCacheConnectorScheduler", "KvCacheConnectorWorker", "mpi_rank"]

ENGINE_VERSION: str = tensorrt_llm.__version__
"""The order of elements inside a page is the engine's own affair, so versions do not share pages."""

ENGINE_SALTS: bool = "cache_salt" in getattr(RequestData, "__dataclass_fields__", {})
"""Whether this version gives requests a cache salt."""
