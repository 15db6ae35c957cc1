"""An engine that computes nothing: it hands out pages and calls the connector in the order that TensorRT-LLM does."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from tests.connectors.tensorrt_llm import fake

fake.install()

from kvstore.connectors.tensorrt_llm import KVStoreScheduler, KVStoreWorker  # noqa: E402

__all__ = ["FakeEngine", "Request", "arguments", "environment", "layout_of"]

LAYERS, HEADS, HEAD_SIZE = 3, 2, 8


@contextlib.contextmanager
def environment(endpoint: str, settings: dict[str, Any]) -> Iterator[None]:
    """The settings where the connector looks for them."""
    names = {f"KVSTORE_CONNECTOR_{name.upper()}": str(value) for name, value in settings.items()}
    names |= {"KVSTORE_CONNECTOR_ENDPOINT": endpoint, "KVSTORE_CLIENT_RECONNECT_BACKOFF_MS_MAX": "100"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def arguments(
    *, ranks: int = 1, block_size: int = 16, kv_dtype: str = "auto", windows: list[int] | None = None, **others: Any
) -> SimpleNamespace:
    """What the engine gives to connectors, as far as they look at it."""
    cache = {"tokens_per_block": block_size, "dtype": kv_dtype, "max_attention_window": windows}
    settings: dict[str, Any] = {"model": "model", "revision": "revision", "dtype": "float32", "attn_backend": "TRTLLM"}
    settings |= {"tensor_parallel_size": ranks, "pipeline_parallel_size": 1, "context_parallel_size": 1}
    settings |= {"gpus_per_node": 8, "max_beam_width": 1, "max_seq_len": 4096, "enable_attention_dp": False}
    settings |= {"kv_cache_config": SimpleNamespace(**cache), "quant_config": None, "speculative_config": None}
    return SimpleNamespace(**(settings | others))


class Request:
    """A request as the scheduler's half sees it."""

    def __init__(self, number: int, tokens: Sequence[int], *, salt: str | None = None, adapter: str = "") -> None:
        self.request_id = number
        self.tokens = list(tokens)
        self.cache_salt = salt
        self.lora_task_id = 1 if adapter else None
        self.py_lora_path = adapter or None

    def get_tokens(self, beam: int) -> list[int]:
        assert beam == 0
        return self.tokens


def layout_of(pools: Sequence[torch.Tensor], block_size: int, *, window: int | None = None, expansion: int = 1) -> Any:
    """The pools, (blocks, bytes) each, as KVCacheManagerV2 describes them: the last one is replicated on all ranks."""
    regions = [
        SimpleNamespace(
            base=pool.data_ptr(),
            size=pool.shape[1],
            stride=pool.stride(0),
            num_slots=pool.shape[0],
            buffers=[SimpleNamespace(layer_id=index, role="kv", expansion=expansion)],
            as_tensor=lambda pool=pool: pool,
        )
        for index, pool in enumerate(pools)
    ]
    group = SimpleNamespace(
        layer_group_id=0,
        layer_ids=list(range(LAYERS)),
        window_size=window,
        regions=regions[:-1],
        replicated_regions=regions[-1:],
    )
    return SimpleNamespace(tokens_per_block=block_size, groups=[group], gpu_pool_mapping_bytes=2 << 20)


class FakeEngine:
    """All ranks in this process, one after the other: those but the first get their plans pickled, as by MPI."""

    def __init__(
        self, llm_args: Any, *, blocks: int = 64, dtype: torch.dtype = torch.float32, second_manager: bool = False
    ) -> None:
        self.block_size = llm_args.kv_cache_config.tokens_per_block
        self.second_manager = second_manager
        self.scheduler = KVStoreScheduler(llm_args)
        self.workers: list[KVStoreWorker] = []
        self.pages: list[torch.Tensor] = []  # of each rank: (blocks, bytes of a page)
        for rank in range(llm_args.tensor_parallel_size):
            fake.set_rank(rank)
            self.workers.append(KVStoreWorker(llm_args if rank == 0 else copy.deepcopy(llm_args)))
            self.pages.append(self._register(self.workers[-1], blocks, dtype))
        fake.set_rank(0)
        self._free = list(range(blocks))[::-1]  # so that blocks of a request are not in order of their numbers
        self._held: dict[int, list[int]] = {}

    def _register(self, worker: KVStoreWorker, blocks: int, dtype: torch.dtype) -> torch.Tensor:
        elements = HEADS * self.block_size * HEAD_SIZE
        if not self.second_manager:
            pool = torch.zeros((blocks, LAYERS, 2, elements), dtype=dtype)
            worker.register_kv_caches(pool)
            return pool.view(blocks, -1).view(torch.uint8)
        nbytes = LAYERS * 2 * elements * dtype.itemsize
        whole = torch.zeros((blocks, nbytes + 64), dtype=torch.uint8)  # slots have a stride of their own
        worker.register_kv_cache_layout(
            layout_of(
                [whole[:, :1000], whole[:, 1000 : nbytes - 500], whole[:, nbytes - 500 : nbytes]], self.block_size
            )
        )
        return whole[:, :nbytes]

    def admit(self, request: Request, computed_tokens: int = 0) -> int:
        """How many tokens the connector promises; the request gets its blocks."""
        promised, is_asynchronous = self.scheduler.get_num_new_matched_tokens(request, computed_tokens)
        assert not is_asynchronous
        count = -(-len(request.tokens) // self.block_size)
        self._held[request.request_id] = [self._free.pop() for _ in range(count)]
        if self.second_manager:
            self.scheduler.update_state_after_alloc_by_layer_group(request, [self.blocks_of(request)])
        else:
            self.scheduler.update_state_after_alloc(request, self.blocks_of(request))
        return promised

    def blocks_of(self, request: Request) -> list[int]:
        return self._held[request.request_id]

    def first(self, request: Request, scheduled: int | None = None, computed: int = 0) -> fake.RequestData:
        """The request in its first step, with that many tokens of it."""
        blocks, scheduled = self.blocks_of(request), len(request.tokens) if scheduled is None else scheduled
        data = fake.RequestData(request.request_id, list(request.tokens), list(blocks), computed, scheduled)
        if self.second_manager:
            data.new_block_ids, data.new_block_ids_by_layer_group = [], [list(blocks)]
        return data

    def later(self, request: Request, computed: int, scheduled: int, new: Sequence[int] = ()) -> fake.RequestData:
        """... and in a later one, which may bring new tokens and, if they need one, a new block."""
        request.tokens += new
        added = -(-len(request.tokens) // self.block_size) - len(self.blocks_of(request))
        blocks = [self._free.pop() for _ in range(added)]
        self._held[request.request_id] += blocks
        data = fake.RequestData(request.request_id, list(new), blocks, computed, scheduled)
        if self.second_manager:
            data.new_block_ids, data.new_block_ids_by_layer_group = [], [blocks]
        return data

    def step(
        self,
        new: Sequence[fake.RequestData] = (),
        cached: Sequence[fake.RequestData] = (),
        forward: Callable[[], None] = lambda: None,
    ) -> Any:
        """One step; `forward` is where the engine computes. Returns the plan."""
        plan = self.scheduler.build_connector_meta(fake.SchedulerOutput(list(new), list(cached)))
        for rank, worker in enumerate(self.workers):
            worker.bind_connector_meta(plan if rank == 0 else pickle.loads(pickle.dumps(plan)))
            worker.start_load_kv(None)
        forward()
        for worker in self.workers:
            for layer in range(LAYERS):
                worker.wait_for_layer_load(layer, None)
                worker.save_kv_layer(layer, None)
            worker.wait_for_save(None)
            assert worker.get_finished([], []) == ([], [])
        return plan

    def finish(self, request: Request) -> None:
        """The request has ended; its blocks go to others at once."""
        held = self._held.pop(request.request_id)
        if self.second_manager:
            keep = self.scheduler.request_finished_by_layer_group(request, [held])
        else:
            keep = self.scheduler.request_finished(request, held)
        assert not keep
        for pages in self.pages:
            pages[held] = 0xDD
        self._free += held

    def is_saving(self) -> bool:
        """Whether a rank still has saves under way."""
        for worker in self.workers:
            worker.get_finished([], [])
        return any(worker.stats()["pending"] for worker in self.workers)

    def close(self) -> None:
        """Ends all ranks."""
        self.scheduler.close()
        for worker in self.workers:
            worker.close()
