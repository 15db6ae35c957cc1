"""Our classes as vLLM drives them, scheduler and worker, on pages of ours, with vLLM's own configuration and hashes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
    LookupResult,
    OffloadKey,
    ReqContext,
    ScheduleEndContext,
    make_offload_key,
)
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.base import JobResult, TransferJob
from vllm.v1.request import Request

from kvstore.connectors.vllm import KVStoreOffloadingSpec, KVStoreTier
from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.engines.vllm.models import prompt as token_ids
from tests.node_process import wait_until

__all__ = ["DirectDriver", "TierDriver", "offloading_config", "offloading_spec"]

ROW_BYTES = 20_480
_ROWS = 64
_LAYOUTS = {"first": "LBHNC", "second": "LBNHC"}
_WAIT_S = 15.0


def offloading_config(identity: Identity, **extra: Any) -> OffloadingConfig:
    """What vLLM would say of such an engine, whose one layer is one group."""
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(identity.page_size, ("model.layers.0.self_attn.attn",), 0),),
        worker_kv_bytes_per_block=ROW_BYTES,
        enable_kv_cache_events=False,
        extra_config=extra,
        engine_id="engine",
        model=OffloadingModelConfig(identity.model, identity.dtype),
        cache=OffloadingCacheConfig(tokens_per_hash=identity.page_size, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(
            rank=identity.rank,
            world_size=identity.world_size,
            tp_size=identity.world_size,
            pp_size=1,
            pcp_size=1,
            dcp_size=1,
            data_parallel_index=0,
            data_parallel_size=1,
            data_parallel_rank_local=None,
            is_parallelism_agnostic=False,
        ),
        kv_cache_layout=_LAYOUTS[identity.layout],
    )


def offloading_spec(identity: Identity) -> Any:
    """What a tier looks at of `TieringOffloadingSpec`, whose making needs an engine."""
    config = offloading_config(identity)
    return SimpleNamespace(config=config, blocks_per_chunk=1, replicated_layout=False, offload_prompt_only=True)


class _Driver(ConnectorDriver):
    """What the two have in common: requests, and the scheduler's steps."""

    scheduler: Any  # what answers `lookup`: the tier or the manager

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        init_none_hash(sha256)
        self._numbers = itertools.count()

    def lookup(self, prompt: int, pages: int) -> int:
        context, keys = self.request(prompt, pages)
        answers: list[LookupResult] = []

        def are_known() -> bool:
            self.take_answers()
            answers[:] = [self.scheduler.lookup(key, context) for key in keys]
            self.scheduler.on_schedule_end(ScheduleEndContext(new_req_ids=(), preempted_req_ids=()))
            return LookupResult.RETRY not in answers

        wait_until(are_known, "all lookups are answered", _WAIT_S)
        self.scheduler.on_request_finished(context)
        return leading(answer is LookupResult.HIT for answer in answers)

    def take_answers(self) -> None:
        """What vLLM does at the beginning of a step."""

    def request(self, prompt: int, pages: int) -> tuple[ReqContext, list[OffloadKey]]:
        """What vLLM makes of such a prompt."""
        lora = self.identity.lora
        request = Request(
            request_id=f"request-{next(self._numbers)}",
            prompt_token_ids=token_ids(str(prompt), pages * self.identity.page_size),
            sampling_params=SamplingParams(max_tokens=1),
            pooling_params=None,
            cache_salt=self.identity.salt or None,
            lora_request=LoRARequest(lora, 1, f"/adapters/{lora}") if lora else None,
            block_hasher=get_request_block_hasher(self.identity.page_size, sha256),
        )
        keys = [make_offload_key(block_hash, 0) for block_hash in request.block_hashes]
        assert len(keys) == pages
        context = ReqContext(req_id=request.request_id)
        if hasattr(context, "set_offload_key_position"):
            for index, key in enumerate(keys):
                context.set_offload_key_position(key, (index + 1) * self.identity.page_size)
        self.scheduler.on_new_request(context)
        return context, keys


class TierDriver(_Driver):
    # A chunk of vLLM's host memory holds the pages of all ranks.
    distinguishes = frozenset(vars(Identity())) - {"rank"}

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        self._rows = np.zeros((_ROWS, ROW_BYTES), np.int8)
        self.tier = self.scheduler = KVStoreTier(
            offloading_spec=offloading_spec(identity),
            primary_kv_view=memoryview(self._rows),
            tier_type="KVStoreTier",
            endpoint=endpoint,
            revision=identity.revision,
            **settings,
        )

    def save(self, prompt: int, pages: int) -> int:
        job = self.job(prompt, pages, is_promotion=False)
        for index, row in enumerate(job.chunk_ids):
            self._rows[row] = page(self.identity, prompt, index, ROW_BYTES).view(np.int8)
        self.tier.submit_store(job)
        return pages if self._result(job).success else 0

    def load(self, prompt: int, pages: int) -> int:
        job = self.job(prompt, pages, is_promotion=True)
        self._rows[job.chunk_ids] = 0x6E
        self.tier.submit_load(job)
        result = self._result(job)
        good = job.keys if result.success else result.successful_keys or ()
        loaded = leading(key in good for key in job.keys)
        for index in range(loaded):
            check_page(self.identity, prompt, index, self._rows[job.chunk_ids[index]].view(np.uint8))
        return loaded

    def take_answers(self) -> None:
        assert list(self.tier.get_finished_jobs()) == []

    def close(self) -> None:
        self.tier.shutdown()

    def job(self, prompt: int, pages: int, *, is_promotion: bool) -> TransferJob:
        """A job for the first pages of a prompt, in rows that are no run."""
        context, keys = self.request(prompt, pages)
        rows = np.arange(_ROWS, dtype=np.int32)[::-2][:pages]
        return TransferJob(next(self._numbers), keys, rows, is_promotion, context)

    def _result(self, job: TransferJob) -> JobResult:
        results: list[JobResult] = []

        def is_there() -> bool:
            results.extend(self.tier.get_finished_jobs())
            return bool(results)

        wait_until(is_there, "the job ends", _WAIT_S)
        self.tier.on_request_finished(job.req_context)
        (result,) = results
        assert result.job_id == job.job_id
        return result


class DirectDriver(_Driver):
    """Scheduler and worker of `KVStoreOffloadingSpec`, of one rank."""

    distinguishes = frozenset(vars(Identity()))

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        ours = {"endpoint": endpoint, "revision": identity.revision, **settings}
        spec = KVStoreOffloadingSpec(offloading_config(identity, kvstore=ours))
        spec.failures_reach_the_engine = True
        self.scheduler = spec.get_manager()
        # Two layers in one allocation, as vLLM has them.
        self._pages = torch.zeros((2, _ROWS, ROW_BYTES // 2), dtype=torch.int8)
        tensors = [CanonicalKVCacheTensor(one, ROW_BYTES // 2) for one in self._pages]
        layers = [CanonicalKVCacheRef(index, ROW_BYTES // 2) for index in range(2)]
        self.worker = spec.get_worker(CanonicalKVCaches(tensors, [layers]))

    def save(self, prompt: int, pages: int) -> int:
        context, keys = self.request(prompt, pages)
        blocks = self._blocks(pages)
        for index, block in enumerate(blocks.block_ids):
            content = page(self.identity, prompt, index, ROW_BYTES).view(np.int8)
            self._pages[:, block] = torch.from_numpy(content.reshape(2, -1).copy())
        before = self.worker._store.stats()["save_good_blocks"]
        output = self.scheduler.prepare_store(keys, context)
        assert self.worker.submit_store(next(self._numbers), blocks, output.store_spec)
        self._await_end()
        self._pages[:, blocks.block_ids] = 0x11  # vLLM has been told that it may use them again

        def is_saved() -> bool:
            self.worker.get_finished()
            return self.worker._store.stats()["pending"] == 0

        wait_until(is_saved, "the save ends", _WAIT_S)
        self.scheduler.on_request_finished(context)
        return int(self.worker._store.stats()["save_good_blocks"] - before)

    def load(self, prompt: int, pages: int) -> int:
        context, keys = self.request(prompt, pages)
        blocks = self._blocks(pages)
        self._pages[:, blocks.block_ids] = 0x6E
        assert self.worker.submit_load(next(self._numbers), self.scheduler.prepare_load(keys, context), blocks)
        self._await_end()
        self.scheduler.on_request_finished(context)
        found = self._pages[:, blocks.block_ids]
        if context.req_id in self.worker.take_failed():
            assert bool((found == 0x6E).all()), "a load that failed wrote to KV memory"
            return 0
        for index in range(pages):
            check_page(self.identity, prompt, index, found[:, index].reshape(-1).numpy().view(np.uint8))
        return pages

    def close(self) -> None:
        self.worker.shutdown()
        self.scheduler.shutdown()

    def _blocks(self, pages: int) -> GPULoadStoreSpec:
        return GPULoadStoreSpec(list(range(_ROWS))[::-2][:pages], group_sizes=[pages], block_indices=[0])

    def _await_end(self) -> None:
        finished: list[Any] = []

        def is_there() -> bool:
            finished.extend(self.worker.get_finished())
            return bool(finished)

        wait_until(is_there, "the job ends", _WAIT_S)
        assert [result.success for result in finished] == [True]


def leading(good: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in itertools.takewhile(bool, good))
