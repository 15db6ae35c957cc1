"""The scheduler's side of the direct path: what is in the store, asked of it; no memory of its own to manage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    LoadStoreSpec,
    LookupResult,
    OffloadingManager,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)

from kvstore.connectors.core import EngineStore
from kvstore.connectors.vllm.block_names import NamedBlocks
from kvstore.connectors.vllm.lookups import Lookups
from kvstore.connectors.vllm.metrics import MetricsReader
from kvstore.connectors.vllm.positions import Positions
from kvstore.keys import Namespace

__all__ = ["KVStoreManager"]


class KVStoreManager(OffloadingManager):
    """A block is there when the store has it for every rank. One thread at a time, as vLLM guarantees.

    `namespaces` gives those of all ranks, to be asked for once vLLM has set its hash seed.
    """

    def __init__(self, store: EngineStore, namespaces: Callable[[], Sequence[Namespace]], positions: Positions) -> None:
        self._store = store
        self._make_namespaces = namespaces
        self._positions = positions
        self._lookups = Lookups(store, self._names, ranks=lambda: len(self._namespaces))
        self._answers = self._lookups.answers
        self._loads: dict[str, tuple[bytes, ...]] = {}
        self._metrics = MetricsReader(store)

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """RETRY until the store has answered, which it is asked at the end of the step."""
        self._poll()
        answers = self._answers.get(req_context.req_id)
        answer = None if answers is None else answers.get(key)
        return self._lookups.ask(req_context.req_id, key) if answer is None else answer

    def prepare_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> LoadStoreSpec:
        """Names the blocks for the workers."""
        named = self._named(keys, req_context)
        self._loads[req_context.req_id] = named.keys
        return named

    def prepare_store(self, keys: Collection[OffloadKey], req_context: ReqContext) -> PrepareStoreOutput:
        """Names the blocks for the workers, but for those that the store is known to have."""
        answers = self._answers.get(req_context.req_id, {})
        wanted = [key for key in keys if answers.get(key) is not LookupResult.HIT]
        return PrepareStoreOutput(wanted, self._named(wanted, req_context), evicted_keys=[])

    def load_failed(self, request: str) -> None:
        """What the request was promised is not there."""
        self._lookups.correct(request, self._loads.get(request, ()))

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """A request that may look up, load and save."""
        self._lookups.begin(req_context.req_id, req_context)
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        """A request that asks no more."""
        self._lookups.forget(req_context.req_id)
        self._loads.pop(req_context.req_id, None)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Sends all lookups of the step as one."""
        self._poll()
        self._lookups.submit()

    def get_stats(self) -> OffloadingConnectorStats | None:
        """What the counters of this process have grown by: lookups; loads and saves are counted by the workers."""
        return self._metrics.read()

    def shutdown(self) -> None:
        """Ends the session with the node. Idempotent."""
        self._store.close()

    def _poll(self) -> None:
        for done in self._store.poll():
            self._lookups.end(done)

    @cached_property
    def _namespaces(self) -> Sequence[Namespace]:
        return self._make_namespaces()

    def _names(self, keys: Sequence[bytes]) -> Any:
        return np.concatenate([namespace.keys(keys) for namespace in self._namespaces])

    def _named(self, keys: Collection[OffloadKey], context: ReqContext) -> NamedBlocks:
        first = min((self._positions.depth(context, key) for key in keys), default=0)
        return NamedBlocks(context.req_id, tuple(keys), self._namespaces[0].engine_hash, first)
