"""The storage backend of SGLang's HiCache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

import torch
from sglang.srt.mem_cache import utils as sglang_utils
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)
from sglang.srt.observability.metrics_collector import StorageMetrics

from kvstore.connectors.core import load_config, read_tenant_secret
from kvstore.connectors.sglang.page_store import KV, PageStore
from kvstore.connectors.sglang.pool import Pool, PoolFactory
from kvstore.errors import UnsupportedError

__all__ = ["KVStoreHiCache"]

_Answer = TypeVar("_Answer")
_LOGGER: Final = logging.getLogger("kvstore.connectors.sglang")

# What SGLang itself reads of the extra configuration; all else is ours.
_OF_SGLANG: Final = frozenset(
    {
        *("backend_name", "module_path", "class_name", "interface_v1", "allocator", "tp_lcm_size"),
        *("prefetch_threshold", "prefetch_timeout_base", "prefetch_timeout_per_ki_token"),
        "hicache_storage_pass_prefix_keys",
    }
)


class KVStoreHiCache(HiCacheStorage):
    """Pages of SGLang's host pools in a kvstore node: one backend a scheduler process, which is one rank.

    SGLang makes it with its `HiCacheStorageConfig`, whose `extra_config` holds the connector's settings beside SGLang's
    own, and registers its host pools. One page with all its pieces is one block. The verbs are called from SGLang's
    storage threads and wait for the store as long as the settings allow; whatever goes wrong is a miss, or a page that
    is not saved. None of them raises. `keys` are SGLang's page hashes, hexadecimal, consecutive in one prompt.

    Raises `ConfigError` for settings of no use, `UnsupportedError` for a release of SGLang whose page hashes do not
    tell cache salts and LoRA adapters apart, and, when a host pool without pages is registered, again
    `UnsupportedError`: SGLang does not start then.
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: dict[str, Any] | None = None) -> None:
        if not hasattr(sglang_utils, "storage_namespace_seed"):
            raise UnsupportedError("this release of SGLang has no cache salt and no LoRA adapter in its page hashes")
        given = storage_config.extra_config or {}
        config = load_config({name: value for name, value in given.items() if name not in _OF_SGLANG})
        self._mapped = bool(given.get("interface_v1", 0))
        self._factory = PoolFactory(storage_config, config, secret=read_tenant_secret(config))
        self._store = PageStore(config)
        self._flat: Pool | None = None

    # Host pools

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pool of the KV itself. One without memory only counts pages: all their bytes lie in other pools."""
        super().register_mem_pool_host(mem_pool_host)
        self._store.counts_only = mem_pool_host.kv_buffer is None
        if not self._store.counts_only:
            self._register(KV, mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: PoolName) -> None:
        """Another pool of a hybrid model."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        if str(host_pool_name) != KV:  # which is registered already
            self._register(str(host_pool_name), host_pool)

    def _register(self, name: str, host: Any) -> None:
        pool = self._factory.describe(name, host, mapped=self._mapped)
        self._store.pools[name] = pool
        _LOGGER.info(
            "host pool %s: pages of %d bytes (%s), namespace %s",
            *(name, pool.page_bytes, pool.pages.order, pool.namespace.fingerprint.hex()[:16]),
        )

    # Zero copy, with `interface_v1`

    def batch_exists(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None) -> int:
        """How many leading pages are there, and worth loading."""
        return self._or(0, "lookup", lambda: self._store.leading(keys))

    def batch_get_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        """Loads pages into the pool of the KV: which are there now."""
        transfer = PoolTransfer(PoolName.KV, host_indices=host_indices, keys=keys)
        return self.batch_get_v2([transfer], extra_info)[PoolName.KV]

    def batch_set_v1(
        self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> list[bool]:
        """Saves pages of the pool of the KV: which are in the store now."""
        transfer = PoolTransfer(PoolName.KV, host_indices=host_indices, keys=keys)
        return self.batch_set_v2([transfer], extra_info)[PoolName.KV]

    # Several pools

    def batch_exists_v2(
        self,
        keys: list[str],
        pool_transfers: list[PoolTransfer] | None = None,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> PoolTransferResult:
        """Which prefixes all pools can restore, by their hit policies (see `restorable_prefix`)."""
        nothing = PoolTransferResult(0, {}, [])
        return self._or(nothing, "lookup", lambda: self._store.restorable(keys, pool_transfers or []))

    def batch_get_v2(
        self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None
    ) -> dict[str, list[bool]]:
        """Loads pages into several pools: by pool, which are there now."""
        nothing = self._store.no_pages(transfers)
        return self._or(nothing, "load", lambda: self._store.load(transfers, _depth(extra_info)))

    def batch_set_v2(
        self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None
    ) -> dict[str, list[bool]]:
        """Saves pages of several pools: by pool, which are in the store now.

        Of a pool that is the same on all ranks one rank saves the pages, and the others say that they have.
        """
        nothing = self._store.no_pages(transfers)
        return self._or(nothing, "save", lambda: self._store.save(transfers, _depth(extra_info)))

    # One tensor a page, without `interface_v1`; such pages are blocks of their own

    def exists(self, key: str) -> bool:
        """Whether a page is there."""
        return self._or([False], "lookup", lambda: self._store.present(self._flat_kv(), [key])) == [True]

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> torch.Tensor | None:
        """As `batch_get`, of one page."""
        (page,) = self.batch_get([key], [target_location])
        return page

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[torch.Tensor | None]:
        """Loads pages into contiguous tensors of their size, new ones where there are none: these, None for a miss."""

        def load() -> list[torch.Tensor | None]:
            pool = self._flat_kv()
            targets = [
                pool.host.get_dummy_flat_data_page() if target is None else target
                for target in target_locations or [None] * len(keys)
            ]
            ok = self._store.load_tensors(pool, keys, targets)
            return [target if good else None for target, good in zip(targets, ok, strict=True)]

        return self._or([None] * len(keys), "load", load)

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """As `batch_set`, of one page."""
        return self.batch_set([key], [value])

    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Saves the bytes of tensors: whether the store has all of them now."""
        return self._or(False, "save", lambda: all(self._store.save_tensors(self._flat_kv(), keys, values)))

    # All else

    def clear(self) -> bool:
        """Forgets what is stored; see `PoolFactory.forget`."""

        def forget() -> bool:
            self._factory.forget()
            self._describe_anew()
            return True

        return self._or(False, "clear", forget)

    def get_stats(self) -> StorageMetrics:
        """Pages and speed of each batch since the last call, for SGLang's own metrics."""
        return self._store.transfers.take()

    def statistics(self) -> dict[str, int | float]:
        """Everything counted since the start: names in docs/connectors/README.md."""
        return self._store.statistics()

    def close(self) -> None:
        """Ends the sessions with the node. Idempotent."""
        self._store.close()

    def _flat_kv(self) -> Pool:
        if self._flat is None:
            self._flat = self._factory.describe(KV, self.mem_pool_host, mapped=False)
        return self._flat

    def _describe_anew(self) -> None:
        for name, pool in list(self._store.pools.items()):
            self._register(name, pool.host)
        self._flat = None

    def _or(self, nothing: _Answer, verb: str, ask: Callable[[], _Answer]) -> _Answer:
        """What `ask` answers; `nothing` where it fails, for SGLang's threads end with what they do not expect."""
        try:
            if self._factory.has_new_weights():
                self._describe_anew()
            return ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a miss
            self._store.log.warning(f"a {verb} failed: %r", error)
            return nothing


def _depth(extra_info: HiCacheStorageExtraInfo | None) -> int:
    """How many pages of the prompt lie before the first of a batch, as far as SGLang tells."""
    return len(extra_info.prefix_keys or ()) if extra_info is not None else 0
