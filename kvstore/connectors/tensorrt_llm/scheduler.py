"""The scheduler's half, on rank 0: looks up, fetches, promises; and tells the ranks what to copy and to save."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kvstore.connectors.core import Done, EngineStore, QuietLog, load_config, read_tenant_secret
from kvstore.connectors.tensorrt_llm.deployment import Deployment
from kvstore.connectors.tensorrt_llm.interface import ENGINE_SALTS, KvCacheConnectorScheduler
from kvstore.connectors.tensorrt_llm.meeting import Meeting
from kvstore.connectors.tensorrt_llm.names import Names, salt_of
from kvstore.connectors.tensorrt_llm.pages import EnginePages
from kvstore.connectors.tensorrt_llm.plan import Save, StepPlan
from kvstore.connectors.tensorrt_llm.prefill_meter import PrefillMeter
from kvstore.connectors.tensorrt_llm.requests import Promise, TrackedRequest
from kvstore.connectors.tensorrt_llm.staging import Staging
from kvstore.errors import UnsupportedError

__all__ = ["KVStoreScheduler"]

_LOGGER = logging.getLogger("kvstore.connectors.tensorrt_llm")
# What a request of the store may take beyond its timeout before its memory is left to it.
_GRACE_MS = 1000


class KVStoreScheduler(KvCacheConnectorScheduler):
    """Used by the engine's scheduling thread alone, in the order of its steps.

    Waits for the store where a request is allocated, up to `lookup_timeout_ms` and then `load_timeout_ms`, and nowhere
    else: the engine asks once, and takes what it was promised for loaded. So only what has arrived is promised, of all
    ranks. Raises `ConfigError` and `UnsupportedError` at the start, and `UnsupportedError` for an engine that turns out
    to have blocks of another size than it said, which would be wrong KV.
    """

    def __init__(self, llm_args: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(llm_args)
        config = load_config({})
        self._deployment = Deployment.of(llm_args, config)
        self._tenant_secret = read_tenant_secret(config)
        self._meeting = Meeting.of(llm_args)
        self._store = EngineStore(config)
        self._log = QuietLog(_LOGGER)
        self._prefill = PrefillMeter(self._store.gate, clock)
        self._requests: dict[int, TrackedRequest] = {}
        self._pages: EnginePages | None = None
        self._names = Names(())
        self._staging: Staging | None = None
        self._loading: dict[int, list[int]] = {}  # slots of loads whose end was not waited for
        self._step = 0
        self._is_refused = False

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """How many tokens after the first `num_computed_tokens` wait in staging; always for the next step."""
        self._forget(request.request_id)
        try:
            return self._match(request, num_computed_tokens), False
        except Exception as error:  # noqa: BLE001  # before a promise everything is a miss
            self._log.warning("a lookup failed: %r", error)
            self._forget(request.request_id)
            return 0, False

    def update_state_after_alloc(self, request: Any, block_ids: Sequence[int]) -> None:
        """Nothing: the plan of the step has the blocks."""

    def update_state_after_alloc_by_layer_group(self, request: Any, block_ids: Sequence[Sequence[int]]) -> None:
        """Nothing, as well."""

    def build_connector_meta(self, scheduler_output: Any) -> StepPlan:
        """The plan of the step."""
        self._step += 1
        plan = StepPlan(self._step)
        pages = self._ready_pages()
        if pages is None or self._staging is None:
            return plan
        plan = StepPlan(self._step, self._staging.place, self._names.fingerprints)
        self._prefill.step(scheduler_output)
        fresh = [
            (request, data)
            for data in scheduler_output.new_requests
            if (request := self._requests.get(data.request_id)) is not None
        ]
        for request, data in fresh:
            request.begin(data)
            if not request.has_blocks_of(data, pages.block_size):
                self._refuse(request, pages.block_size)
                return StepPlan(self._step)
        for request, data in fresh:
            if request.promise is not None:
                self._staging.hand_over(request.promise.slots, self._step)
            plan.loads.extend(request.take_loads())
            plan.saves.extend(self._saves(request, data, pages))
        for data in scheduler_output.cached_requests:
            if request := self._requests.get(data.request_id):
                request.go_on(data)
                plan.saves.extend(self._saves(request, data, pages))
        return plan

    def request_finished(self, request: Any, cache_block_ids: Sequence[int]) -> bool:
        """False: what is saved was copied in the order of the steps, so the blocks may go at once."""
        self._forget(request.request_id)
        return False

    def request_finished_by_layer_group(self, request: Any, cache_block_ids: Sequence[Sequence[int]]) -> bool:
        """As `request_finished`."""
        self._forget(request.request_id)
        return False

    def cancel_load(self, request: Any) -> None:
        """The request will not run."""
        self._forget(request.request_id)

    def stats(self) -> dict[str, int | float]:
        """Everything counted in this half since the start: names in docs/connectors/README.md."""
        return self._store.stats()

    def close(self) -> None:
        """Ends the session with the node. Idempotent."""
        self._store.close()
        if self._staging is not None:
            self._staging.close()

    def _ready_pages(self) -> EnginePages | None:
        if self._is_refused:
            return None
        if self._pages is None and (pages := self._meeting.pages) is not None:
            self._names = Names.of(self._deployment, pages, self._tenant_secret)
            self._staging = Staging(
                ranks=self._deployment.world_size,
                page_bytes=pages.page_bytes,
                budget_bytes=self._store.config.save_bytes,
            )
            self._pages = pages
        return self._pages

    def _match(self, request: Any, computed_tokens: int) -> int:
        pages = self._ready_pages()
        salt = salt_of(request, engine_salts=ENGINE_SALTS)
        if pages is None or self._staging is None or salt is None:
            return 0
        tracked = self._requests[request.request_id] = TrackedRequest(salt)
        self._reap(self._store.poll())
        block_size, ranks = pages.block_size, self._deployment.world_size
        tokens = request.get_tokens(0)
        # One token at least is left to compute.
        keys = self._names.keys(tokens[: (len(tokens) - 1) // block_size * block_size], salt)
        first, partly = divmod(computed_tokens, block_size)
        if not len(keys) or partly:  # a block that is partly there may be shared with others
            return 0
        # A block is there when all ranks have it; one question for all of them, so that they cannot disagree.
        tracked.in_store = self._found(keys.reshape(-1, 32)) // ranks
        count = min(tracked.in_store - first, self._staging.free)
        nbytes = count * ranks * pages.page_bytes
        if count <= 0 or not self._store.gate.is_worth_loading(tokens=count * block_size, nbytes=nbytes):
            return 0
        slots = self._fetch(keys[first : first + count].reshape(-1, 32), count, first * ranks, nbytes)
        if slots:
            tracked.promise = Promise(first, slots)
        return len(slots) * block_size

    def _found(self, keys: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
        done = self._finish(self._store.lookup(keys), self._store.config.lookup_timeout_ms)
        return 0 if done is None else done.leading

    def _fetch(self, keys: np.ndarray[Any, np.dtype[np.uint8]], count: int, depth: int, nbytes: int) -> list[int]:
        """The slots of the leading blocks that have arrived for all ranks."""
        assert self._staging is not None
        slots = self._staging.take(count)
        ticket = self._store.load(keys, self._staging.buffers(slots), nbytes=nbytes, first_depth=depth)
        self._loading[ticket] = slots
        done = self._finish(ticket, self._store.config.load_timeout_ms)
        if done is None:
            return []  # the slots come back when the load has ended
        good = done.leading // self._deployment.world_size
        self._staging.give_back(slots[good:])
        return slots[:good]

    def _finish(self, ticket: int, timeout_ms: int) -> Done | None:
        ended = self._store.wait([ticket], timeout_ms + _GRACE_MS)
        mine = [done for done in ended if done.ticket == ticket]
        self._reap([done for done in ended if done.ticket != ticket])
        if mine:
            self._loading.pop(ticket, None)
        return mine[0] if mine else None

    def _reap(self, ended: Sequence[Done]) -> None:
        """Loads that nobody waits for any more: their slots are free again."""
        for done in ended:
            if self._staging is not None and (slots := self._loading.pop(done.ticket, None)):
                self._staging.give_back(slots)

    def _saves(self, request: TrackedRequest, data: Any, pages: EnginePages) -> list[Save]:
        complete = request.complete_blocks(data, pages.block_size)
        return request.take_saves(complete, self._names, pages.block_size)

    def _refuse(self, request: TrackedRequest, block_size: int) -> None:
        """The engine's blocks do not have the size that it said: it is left alone from now on."""
        what = (
            f"the engine gave {len(request.blocks)} blocks for {len(request.tokens)} tokens, so its blocks do not have"
            f" the {block_size} tokens that it said; nothing can be shared with it"
        )
        if any(known.promise is not None for known in self._requests.values()):
            raise UnsupportedError(what)  # what was promised would be wrong KV
        _LOGGER.error("%s", what)
        self._is_refused = True

    def _forget(self, request_id: int) -> None:
        tracked = self._requests.pop(request_id, None)
        if tracked is not None and tracked.promise is not None and self._staging is not None:
            self._staging.give_back(tracked.promise.slots)
