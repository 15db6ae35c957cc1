"""vLLM's offloading connector, with an end for loads that fail."""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import KVConnectorOutput

from kvstore.connectors.vllm.manager import KVStoreManager
from kvstore.connectors.vllm.spec import KVStoreOffloadingSpec
from kvstore.connectors.vllm.worker import KVStoreWorker
from kvstore.errors import ConfigError

__all__ = ["KVStoreConnector"]


class KVStoreConnector(OffloadingConnector):
    """`OffloadingConnector` for `KVStoreOffloadingSpec`: requests whose load failed are computed anew.

    Raises `ConfigError` where vLLM would fail such requests instead.
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        transfer = vllm_config.kv_transfer_config
        if transfer.kv_load_failure_policy != "recompute":
            raise ConfigError(
                f"kv_load_failure_policy is {transfer.kv_load_failure_policy!r}, so that a node that goes away would"
                " fail requests: set it to recompute"
            )
        super().__init__(vllm_config, role, kv_cache_config)
        if self.connector_worker is not None:
            spec = self.connector_worker.spec
            if not isinstance(spec, KVStoreOffloadingSpec):
                raise ConfigError(
                    "KVStoreConnector needs spec_name KVStoreOffloadingSpec and spec_module_path"
                    " kvstore.connectors.vllm in kv_connector_extra_config"
                )
            spec.failures_reach_the_engine = True

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """What has ended in this worker, with the requests among it whose load failed."""
        results = super().get_transfer_results(finished_req_ids)
        worker = self.connector_worker.worker
        if isinstance(worker, KVStoreWorker):
            results.failed_recving |= worker.take_failed() & results.finished_recving
        return results

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """Lookups from the scheduler's process, loads and saves from the workers'."""
        if self.connector_worker is not None:
            worker = self.connector_worker.worker
            return worker.stats() if isinstance(worker, KVStoreWorker) else None
        return super().get_kv_connector_stats()

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """What has ended in all workers."""
        manager = self.connector_scheduler.manager
        if isinstance(manager, KVStoreManager):
            for request in connector_output.failed_recving or ():
                manager.load_failed(request)
        super().update_connector_output(connector_output)
