"""vLLM's offloading straight between KV memory and the store, without a tier in the host's memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    OffloadingManager,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadingWorker,
)
from vllm.v1.kv_offload.config import OffloadingConfig

from kvstore.connectors.core import EngineStore, load_config
from kvstore.connectors.vllm.manager import KVStoreManager
from kvstore.connectors.vllm.metrics import metric_definitions
from kvstore.connectors.vllm.naming import check_hash_seed, check_page_bytes, find_engine_config, namespace_of
from kvstore.connectors.vllm.pages import Pages
from kvstore.connectors.vllm.positions import Positions
from kvstore.connectors.vllm.worker import KVStoreWorker
from kvstore.errors import ConfigError
from kvstore.keys import Namespace

__all__ = ["KVStoreOffloadingSpec"]

SETTINGS = "kvstore"
"""The key in `kv_connector_extra_config` under which the settings of `[connector]` stand."""


class KVStoreOffloadingSpec(OffloadingSpec):
    """Named as `spec_name` of `KVStoreConnector`, which alone can tell vLLM that a load has failed.

    Raises `ConfigError` at start for settings that are wrong or that could never lead to a hit.
    """

    def __init__(self, config: OffloadingConfig) -> None:
        super().__init__(config)
        self.failures_reach_the_engine = False
        self._engine = find_engine_config()
        check_hash_seed(self._engine)
        check_page_bytes(config.worker_kv_bytes_per_block)
        self._settings = load_config(config.extra_config.get(SETTINGS, {}))
        if config.cache.blocks_per_chunk != 1 or config.canonical_layout:
            raise ConfigError(
                "KVStoreOffloadingSpec saves single blocks as they are: take out block_size,"
                " blocks_per_chunk and canonical_layout"
            )
        self._manager: KVStoreManager | None = None
        self._worker: KVStoreWorker | None = None

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        """The counters of `kvstore.connectors.core` as `vllm:kvstore_...`."""
        return metric_definitions()

    def get_manager(self) -> OffloadingManager:
        """For the scheduler's process."""
        if self._manager is None:
            self._manager = KVStoreManager(EngineStore(self._settings), self._all_ranks, Positions(self.config))
        return self._manager

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """For a worker's process."""
        if not self.failures_reach_the_engine:
            raise ConfigError(
                "OffloadingConnector ends the engine when a load fails: with KVStoreOffloadingSpec, set kv_connector to"
                " KVStoreConnector and kv_connector_module_path to kvstore.connectors.vllm"
            )
        if self._worker is None:
            tensors = [one.tensor.view(torch.int8).view(-1, one.page_size_bytes) for one in kv_caches.tensors]
            groups = [[(ref.tensor_idx, ref.page_size_bytes) for ref in refs] for refs in kv_caches.group_data_refs]
            rank = self.config.parallel.rank
            named = lru_cache(maxsize=1)(lambda engine_hash: self._namespace(rank, engine_hash))
            self._worker = KVStoreWorker(EngineStore(self._settings), named, Pages(tensors, groups))
        return self._worker

    def _all_ranks(self) -> Sequence[Namespace]:
        return [self._namespace(rank) for rank in range(self.config.parallel.world_size)]

    def _namespace(self, rank: int, engine_hash: str = "") -> Namespace:
        parallel = self.config.parallel
        namespace = namespace_of(
            self._settings,
            self.config,
            self._engine,
            engine_hash=engine_hash,
            page_bytes=self.config.worker_kv_bytes_per_block,
            layout="pages-of-a-rank",
            extra_terms={"topology": [parallel.tp_size, parallel.pp_size, parallel.pcp_size, parallel.dcp_size]},
        )
        return dataclasses.replace(namespace, rank=rank, world_size=parallel.world_size)
