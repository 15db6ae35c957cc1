"""The workers' half, on every rank: copies what waits for it into the engine's pages, and complete pages out."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from kvstore.connectors.core import EngineStore, load_config, read_tenant_secret
from kvstore.connectors.tensorrt_llm.deployment import Deployment
from kvstore.connectors.tensorrt_llm.interface import KvCacheConnectorWorker, mpi_rank
from kvstore.connectors.tensorrt_llm.meeting import Meeting
from kvstore.connectors.tensorrt_llm.names import Names
from kvstore.connectors.tensorrt_llm.pages import EnginePages
from kvstore.connectors.tensorrt_llm.plan import Save, StepPlan
from kvstore.connectors.tensorrt_llm.staging import RanksView
from kvstore.errors import FingerprintMismatchError, UnsupportedError

__all__ = ["KVStoreWorker"]


class _Copied(NamedTuple):
    """Pages on their way from the GPU to `slots`; there once `event` has happened (None: they are)."""

    event: Any
    save: Save
    slots: list[int]


class KVStoreWorker(KvCacheConnectorWorker):
    """Used by the engine's executor thread alone, in the order of its steps. Never waits for the store.

    Pages are copied out behind the forward pass, in its stream, and sent from there; what finds no room is dropped and
    counted. Raises `ConfigError` and `UnsupportedError` at the start, and in the first step that has a plan
    `FingerprintMismatchError` where this rank's pages are not what rank 0 takes them for, or `UnsupportedError` where
    it cannot see rank 0's memory.
    """

    def __init__(self, llm_args: Any) -> None:
        super().__init__(llm_args)
        config = load_config({})
        self._deployment = Deployment.of(llm_args, config)
        self._tenant_secret = read_tenant_secret(config)
        self._rank = mpi_rank()
        if self._rank >= self._deployment.world_size:
            raise UnsupportedError(f"rank {self._rank} of {self._deployment.world_size} is none")
        self._meeting = Meeting.of(llm_args)
        self._store = EngineStore(config)
        self._pages: EnginePages | None = None
        self._fingerprint = b""
        self._staging: RanksView | None = None
        self._room = torch.empty((0, 0), dtype=torch.uint8)
        self._free: list[int] = []
        self._copied: deque[_Copied] = deque()
        self._saving: dict[int, list[int]] = {}
        self._plan: StepPlan | None = None

    def register_kv_caches(self, kv_cache_tensor: torch.Tensor) -> None:
        """The pool of the first KV cache manager: see `EnginePages.of_tensor`."""
        self._begin(EnginePages.of_tensor(kv_cache_tensor, self._deployment))

    def register_kv_cache_layout(self, layout: Any) -> None:
        """The pools of KVCacheManagerV2: see `EnginePages.of_layout`."""
        self._begin(EnginePages.of_layout(layout, self._deployment))

    def start_load_kv(self, stream: Any) -> None:
        """Copies what the plan of the step has for this rank into its pages, in the order of `stream`."""
        self._advance()
        self._plan = plan = self.get_connector_meta()
        if plan is None or plan.staging is None or self._pages is None:
            return
        if self._staging is None:
            self._meet_rank_0(plan)
        if not plan.loads or self._staging is None:
            return
        with self._in_order_of(stream):
            for load in plan.loads:
                self._pages.copy_in(load.block, torch.from_numpy(self._staging.blocks[load.slot, self._rank]))
        self._finish_on_gpu(stream)
        self._staging.copied_steps[self._rank] = plan.step

    def wait_for_layer_load(self, layer_idx: int, stream: Any) -> None:
        """Nothing: all layers were loaded before the first."""

    def save_kv_layer(self, layer_idx: int, stream: Any) -> None:
        """Nothing: pages are saved whole, behind the last layer."""

    def wait_for_save(self, stream: Any) -> None:
        """Begins to save what is complete after the step; waits for nothing."""
        plan, self._plan = self._plan, None
        for save in plan.saves if plan is not None else ():
            self._copy_out(save, stream)
        self._advance()

    def get_finished(
        self, finished_gen_req_ids: Sequence[int], started_loading_req_ids: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Nobody: no request waits for this connector."""
        self._advance()
        return [], []

    def stats(self) -> dict[str, int | float]:
        """Everything counted on this rank since the start: names in docs/connectors/README.md."""
        return self._store.stats()

    def close(self) -> None:
        """Ends the session with the node. Idempotent."""
        self._store.close()

    def _begin(self, pages: EnginePages) -> None:
        names = Names.of(self._deployment, pages, self._tenant_secret)
        self._fingerprint = names.fingerprints[self._rank]
        slots = max(1, self._store.config.save_bytes // pages.page_bytes)
        self._room = torch.empty((slots, pages.page_bytes), dtype=torch.uint8, pin_memory=pages.on_gpu)
        self._free = list(range(slots))
        self._pages = pages
        self._meeting.pages = pages

    def _meet_rank_0(self, plan: StepPlan) -> None:
        if len(plan.fingerprints) <= self._rank or plan.fingerprints[self._rank] != self._fingerprint:
            raise FingerprintMismatchError(
                f"the KV of rank {self._rank} is not what rank 0 takes it for: settings, secret or pages of the ranks"
                " differ"
            )
        assert plan.staging is not None
        self._staging = RanksView(plan.staging)

    def _copy_out(self, save: Save, stream: Any) -> None:
        assert self._pages is not None
        fitting = min(len(save.blocks), len(self._free)) if self._store.connected else 0
        if fitting < len(save.blocks):
            self._store.drop_save(len(save.blocks) - fitting)
        if not fitting:
            return
        slots, self._free = self._free[:fitting], self._free[fitting:]
        event = None
        with self._in_order_of(stream):
            for block, slot in zip(save.blocks, slots, strict=False):
                self._pages.copy_out(block, self._room[slot])
            if self._pages.on_gpu:
                event = torch.cuda.Event()
                event.record()
        self._copied.append(_Copied(event, save, slots))

    def _advance(self) -> None:
        """Sends what has been copied, and takes back the room of what has been sent."""
        for done in self._store.poll():
            self._free += self._saving.pop(done.ticket, [])
        while self._copied and (self._copied[0].event is None or self._copied[0].event.query()):
            _, save, slots = self._copied.popleft()
            ticket = self._store.save(
                save.keys[: len(slots), self._rank].copy(),
                [self._room[slot].numpy() for slot in slots],
                nbytes=len(slots) * self._room.shape[1],
                first_depth=save.first_depth,
            )
            if ticket is None:
                self._free += slots
            else:
                self._saving[ticket] = slots

    def _in_order_of(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        assert self._pages is not None
        return torch.cuda.stream(stream) if self._pages.on_gpu else contextlib.nullcontext()

    def _finish_on_gpu(self, stream: Any) -> None:
        """The staging memory is the scheduler's again only when the copies out of it have been made."""
        assert self._pages is not None
        if self._pages.on_gpu:
            stream.synchronize()
