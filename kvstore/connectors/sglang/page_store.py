"""Pages of several host pools, looked up, loaded and saved in batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer, PoolTransferResult

from kvstore.config import ConnectorConfig
from kvstore.connectors.sglang.hits import restorable_prefix
from kvstore.connectors.sglang.host_pages import Buffers, bytes_of
from kvstore.connectors.sglang.pool import Keys, Pool
from kvstore.connectors.sglang.prefill_times import PrefillTimes
from kvstore.connectors.sglang.session import Session
from kvstore.connectors.sglang.transfers import Transfers

__all__ = ["KV", "PageStore"]

KV: Final = str(PoolName.KV)
"""The pool of the KV itself, in `pools`."""


class _Part(NamedTuple):
    """A transfer with all that is needed to submit it: nothing may fail between two submissions of a batch."""

    transfer: PoolTransfer
    pool: Pool
    keys: Keys
    buffers: Buffers

    @property
    def nbytes(self) -> int:
        return len(self.buffers) * self.pool.page_bytes


class PageStore:
    """The sessions of one rank, and what travels over them. Each verb waits; `pools` are its host pools by name.

    `counts_only` says that the pool of the KV has no memory: all its bytes lie in other pools. One thread may look up,
    one load and one save at the same time, as SGLang's do.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        self.pools: dict[str, Pool] = {}
        self.counts_only = False
        self.transfers = Transfers()
        self._lookups = Session(config, timeout_ms=config.lookup_timeout_ms)
        self._loads = Session(config, timeout_ms=config.load_timeout_ms)
        self._saves = Session(config, timeout_ms=config.save_timeout_ms)
        self._prefills = PrefillTimes()

    @property
    def log(self) -> Any:
        """The quiet log of the store."""
        return self._loads.store.log

    def leading(self, keys: list[str]) -> int:
        """How many leading pages of the KV are there, and worth loading."""
        pool = self.pools.get(KV)
        if pool is None or not keys:
            return 0
        (there,) = self._lookups.run([len(keys)], lambda store: [store.lookup(pool.keys(keys))])
        hits = int(there.sum())
        return hits if self._is_worth_loading(keys, hits, pool.page_bytes) else 0

    def present(self, pool: Pool, keys: list[str]) -> list[bool]:
        """Which pages of a pool are there."""
        (there,) = self._lookups.run([len(keys)], lambda store: [store.exists(pool.keys(keys))])
        return there.tolist()

    def restorable(self, keys: list[str], transfers: Sequence[PoolTransfer]) -> PoolTransferResult:
        """Which prefixes all pools can restore, asked in one round trip."""
        nothing = PoolTransferResult(0, {}, [])
        pools = {str(one.name): self.pools.get(str(one.name)) for one in transfers}
        if not self.counts_only:
            pools[KV] = self.pools.get(KV)
        known = {name: pool for name, pool in pools.items() if pool is not None}
        if not keys or not known or len(known) < len(pools):
            return nothing
        names = [pool.keys(keys) for pool in known.values()]
        answers = self._lookups.run([len(keys)] * len(known), lambda store: [store.exists(one) for one in names])
        there = {name: ok.tolist() for name, ok in zip(known, answers, strict=True)}
        kv = there.pop(KV, [True] * len(keys))
        result = restorable_prefix(kv.index(False) if False in kv else len(kv), transfers, there)
        page_bytes = sum(pool.page_bytes for pool in known.values())
        if self._is_worth_loading(keys, result.kv_hit_pages, page_bytes):
            return result
        return PoolTransferResult(0, result.extra_pool_hit_pages, [])

    def load(self, transfers: Sequence[PoolTransfer], depth: int) -> dict[str, list[bool]]:
        """Reads pages into host pools: by pool, which are there now."""
        found = self.no_pages(transfers)
        batch = [
            _Part(one, pool, pool.keys(one.keys), pool.pages.to_load(one.host_indices))
            for one, pool in self._with_pools(transfers)
        ]
        started_s = time.monotonic()
        answers = self._loads.run(
            [len(part.keys) for part in batch],
            lambda store: [
                store.load(part.keys, part.buffers, nbytes=part.nbytes, first_depth=depth) for part in batch
            ],
        )
        seconds = time.monotonic() - started_s
        for part, ok in zip(batch, answers, strict=True):
            part.pool.pages.loaded(part.transfer.host_indices, part.buffers, ok.tolist())
            found[part.transfer.name] = ok.tolist()
            self.transfers.loaded(int(ok.sum()), int(ok.sum()) * part.pool.page_bytes, seconds)
        return found

    def save(self, transfers: Sequence[PoolTransfer], depth: int) -> dict[str, list[bool]]:
        """Writes pages of host pools: by pool, which the store has now, or another rank saves."""
        found = self.no_pages(transfers)
        batch = []
        for one, pool in self._with_pools(transfers):
            if pool.writes:
                batch.append(_Part(one, pool, pool.keys(one.keys), pool.pages.to_save(one.host_indices)))
            else:
                found[one.name] = [True] * len(one.keys)
        started_s = time.monotonic()
        answers = self._saves.run(
            [len(part.keys) for part in batch],
            lambda store: [
                store.save(part.keys, part.buffers, nbytes=part.nbytes, first_depth=depth) for part in batch
            ],
        )
        seconds = time.monotonic() - started_s
        for part, ok in zip(batch, answers, strict=True):
            found[part.transfer.name] = ok.tolist()
            self.transfers.saved(int(ok.sum()), int(ok.sum()) * part.pool.page_bytes, seconds)
            if str(part.transfer.name) == KV:
                self._note_prefill(part.transfer.keys, part.pool)
        return found

    def load_tensors(self, pool: Pool, keys: list[str], targets: list[torch.Tensor]) -> list[bool]:
        """Reads pages into contiguous CPU tensors."""
        if not all(target.is_contiguous() for target in targets):
            raise ValueError("pages are loaded into contiguous tensors only")
        views = [bytes_of(target) for target in targets]
        nbytes = sum(view.nbytes for view in views)
        names = pool.keys(keys)
        (ok,) = self._loads.run([len(keys)], lambda store: [store.load(names, views, nbytes=nbytes)])
        return ok.tolist()

    def save_tensors(self, pool: Pool, keys: list[str], values: Sequence[torch.Tensor]) -> list[bool]:
        """Writes the bytes of tensors."""
        if not pool.writes:
            return [True] * len(keys)
        views = [bytes_of(value) for value in values]
        nbytes = sum(view.nbytes for view in views)
        names = pool.keys(keys)
        (ok,) = self._saves.run([len(keys)], lambda store: [store.save(names, views, nbytes=nbytes)])
        self._note_prefill(keys, pool)
        return ok.tolist()

    def no_pages(self, transfers: Sequence[PoolTransfer]) -> dict[str, list[bool]]:
        """The answer to transfers none of which succeeded; what has no bytes always does."""
        return {one.name: [self.counts_only and str(one.name) == KV] * len(one.keys or ()) for one in transfers}

    def statistics(self) -> dict[str, int | float]:
        """The counters of all sessions together."""
        every = [session.store.stats() for session in (self._lookups, self._loads, self._saves)]
        sums = {name: sum(stats[name] for stats in every) for name in every[0]}
        return sums | {"connected": min(stats["connected"] for stats in every)}

    def close(self) -> None:
        """Ends the sessions. Idempotent."""
        for session in (self._lookups, self._loads, self._saves):
            session.close()

    def _with_pools(self, transfers: Sequence[PoolTransfer]) -> Iterator[tuple[PoolTransfer, Pool]]:
        """Transfers that can be carried out, each with its pool; one whose indices do not fit its keys cannot."""
        for one in transfers:
            pool = self.pools.get(str(one.name))
            if pool is None or not one.keys or one.host_indices is None:
                continue
            if int(one.host_indices.numel()) == len(one.keys) * pool.pages.page_size:
                yield one, pool
            else:
                slots = int(one.host_indices.numel())
                self.log.warning("pool %s: %d token slots are not %d pages", one.name, slots, len(one.keys))

    def _is_worth_loading(self, keys: list[str], hits: int, page_bytes: int) -> bool:
        if hits < len(keys):
            self._prefills.missed(keys[hits])
        pool = self.pools.get(KV)
        if hits == 0 or pool is None:
            return True
        tokens = hits * pool.pages.page_size
        return self._loads.store.gate.is_worth_loading(tokens=tokens, nbytes=hits * page_bytes)

    def _note_prefill(self, keys: list[str], pool: Pool) -> None:
        seconds = self._prefills.seconds_until(keys[0]) if keys else None
        if seconds is not None:
            self._loads.store.gate.note_prefill(len(keys) * pool.pages.page_size, seconds)
