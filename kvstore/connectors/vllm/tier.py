"""A secondary tier of vLLM's tiered offloading: chunks go from its host memory to the store and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.canonical_mapping import canonical_format_id
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from kvstore.connectors.core import Done, EngineStore, load_config
from kvstore.connectors.vllm.lookups import Lookups
from kvstore.connectors.vllm.metrics import MetricsReader, metric_definitions
from kvstore.connectors.vllm.naming import check_hash_seed, check_page_bytes, find_engine_config, namespace_of
from kvstore.connectors.vllm.positions import Positions
from kvstore.connectors.vllm.prefill_speed import PrefillSpeed
from kvstore.connectors.vllm.transfers import Transfers
from kvstore.keys import Namespace

__all__ = ["KVStoreTier"]

# What a drain may take beyond the deadlines of what it waits for.
_DRAIN_GRACE_MS = 1_000
_NOTHING: Mapping[bytes, LookupResult] = MappingProxyType({})


class KVStoreTier(SecondaryTierManager):
    """Named in `secondary_tiers` of `kv_connector_extra_config`, with the settings of `[connector]` beside it.

    It lives in the scheduler's process, where nothing may wait: lookups, loads and saves are submitted, and what became
    of them is collected once a step. One thread at a time, as vLLM guarantees. Raises `ConfigError` at start for
    settings that are wrong or that could never lead to a hit; later, whatever goes wrong is a miss.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        locality: str | None = None,
        **settings: object,
    ) -> None:
        detector = () if backpressure_detector is None else (backpressure_detector,)  # vLLM 0.30 has none
        super().__init__(offloading_spec, primary_kv_view, tier_type, *detector)
        self.locality = Locality(locality) if locality is not None else None
        self._engine = find_engine_config()
        check_hash_seed(self._engine)
        rows = np.asarray(primary_kv_view).view(np.uint8)
        self._row_bytes = rows.shape[1]
        check_page_bytes(self._row_bytes)
        self._config = load_config(settings)
        self._store = EngineStore(self._config)
        if self._engine is None and not self._config.revision:
            self._store.log.warning(
                "the revision of the weights is not known here and not in the names of blocks; set revision where"
                " several versions of a model use one store"
            )
        self._positions = Positions(offloading_spec.config)
        self._lookups = Lookups(self._store, self._names, self._is_worth_loading)
        self._answers = self._lookups.answers
        self._transfers = Transfers(self._store, rows, self._names, self._positions.depth)
        self._prefill_speed = PrefillSpeed(self._store.gate)
        self._metrics = MetricsReader(self._store)

    @cached_property
    def namespace(self) -> Namespace:
        """What names this engine's chunks; to be asked for once vLLM has set its hash seed, which is after set-up."""
        config = self._offloading_spec.config
        parallel = config.parallel
        topology: Any = [parallel.tp_size, parallel.pp_size, parallel.pcp_size, parallel.dcp_size, parallel.world_size]
        layout = "workers-in-turn"
        if config.canonical_layout:
            layout = f"canonical-{canonical_format_id(config.kv_cache_layout)}"
            if parallel.is_parallelism_agnostic:
                topology = "any"
        terms = {"topology": topology, "replicated": self._offloading_spec.replicated_layout}
        return namespace_of(
            self._config, config, self._engine, page_bytes=self._row_bytes, layout=layout, extra_terms=terms
        )

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """RETRY until the store has answered, which it is asked at the end of the step."""
        answer = self._answers.get(req_context.req_id, _NOTHING).get(key)
        return self._lookups.ask(req_context.req_id, key) if answer is None else answer

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Begins to save chunks; drops them where the node is away or cannot keep up."""
        self._note_computed(job_metadata)
        self._transfers.save(job_metadata)

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Begins to load chunks."""
        self._transfers.load(job_metadata)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """The jobs that have ended since the last call; takes answers to lookups on the way."""
        self._take(self._store.poll())
        return self._transfers.results()

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """A request that may look up, load and save."""
        self._lookups.begin(req_context.req_id, req_context)
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        """A request that asks no more; its jobs go on."""
        self._lookups.forget(req_context.req_id)
        self._prefill_speed.finished(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Sends all lookups of the step as one."""
        self._lookups.submit()
        self._prefill_speed.scheduled(context.new_req_ids)

    def drain_jobs(self) -> None:
        """Waits for the jobs under way: each ends within its own timeout."""
        longest_ms = max(self._config.load_timeout_ms, self._config.save_timeout_ms)
        self._take(self._store.wait(self._transfers.tickets, longest_ms + _DRAIN_GRACE_MS))

    def shutdown(self) -> None:
        """Ends the session with the node and lets go of vLLM's memory. Idempotent."""
        self._store.close()
        self._take(self._store.poll())
        self._transfers.close()

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        """The counters of `kvstore.connectors.core` as `vllm:kvstore_...`."""
        return metric_definitions()

    def get_stats(self) -> OffloadingConnectorStats | None:
        """What the counters have grown by since the last call."""
        return self._metrics.read()

    def _take(self, ended: Iterable[Done]) -> None:
        for done in ended:
            if not self._lookups.end(done):
                self._transfers.end(done)
        for request, keys in self._transfers.loads_failed:
            # Or vLLM would try the same again for ever.
            self._lookups.correct(request, keys)
        self._transfers.loads_failed.clear()

    def _names(self, keys: Sequence[bytes]) -> Any:
        return self.namespace.keys(keys)

    def _is_worth_loading(self, context: ReqContext, keys: Sequence[bytes], there: Sequence[bool]) -> bool:
        tokens = self._positions.leading_tokens(context, keys, there)
        return tokens == 0 or self._store.gate.is_worth_loading(tokens=tokens, nbytes=sum(there) * self._row_bytes)

    def _note_computed(self, job: TransferJob) -> None:
        """Chunks of a prompt; those that are generated come as slowly as they are."""
        if not self._offloading_spec.offload_prompt_only or not job.keys:
            return
        tokens = self._positions.tokens_of_first_group(list(job.keys))
        self._prefill_speed.computed(job.req_context.req_id, tokens)
