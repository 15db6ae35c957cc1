"""HiCache's backend as SGLang's storage threads use it: pages of a real host pool, hashed by SGLang."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported
from kvstore.connectors.sglang import KVStoreHiCache
from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.engines.sglang.pools import mha_pool, page_hashes, read_pages, storage_config, write_pages

__all__ = ["HiCacheDriver"]

_LAYOUTS = {"first": "layer_first", "second": "page_first"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class HiCacheDriver(ConnectorDriver):
    distinguishes = frozenset(vars(Identity()))

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        self._pool = mha_pool(
            layout=_LAYOUTS[identity.layout], dtype=_DTYPES[identity.dtype], page_size=identity.page_size
        )
        config = storage_config(
            endpoint,
            model=identity.model,
            rank=identity.rank,
            world_size=identity.world_size,
            settings={"revision": identity.revision, **settings},
        )
        self._backend = KVStoreHiCache(config, {})
        self._backend.register_mem_pool_host(self._pool)
        self._page_bytes = self._pool.size_per_token * self._pool.page_size

    def save(self, prompt: int, pages: int) -> int:
        content = [page(self.identity, prompt, index, self._page_bytes) for index in range(pages)]
        indices = self._slots(pages)
        write_pages(self._pool, indices, content)
        ok = self._backend.batch_set_v1(self._hashes(prompt, pages), indices)
        self._pool.free(indices)
        return _leading(ok, pages)

    def lookup(self, prompt: int, pages: int) -> int:
        return self._backend.batch_exists(self._hashes(prompt, pages))

    def load(self, prompt: int, pages: int) -> int:
        indices = self._slots(pages)
        write_pages(self._pool, indices, [np.full(self._page_bytes, 0xEE, np.uint8)] * pages)
        loaded = _leading(self._backend.batch_get_v1(self._hashes(prompt, pages), indices), pages)
        for index, found in enumerate(read_pages(self._pool, indices)[:loaded]):
            check_page(self.identity, prompt, index, found)
        self._pool.free(indices)
        return loaded

    def close(self) -> None:
        self._backend.close()

    def _hashes(self, prompt: int, pages: int) -> list[str]:
        # SGLang puts the adapter behind what the caller gave as extra key.
        salt, adapter = self.identity.salt or None, self.identity.lora or None
        return page_hashes(prompt, pages, self.identity.page_size, salt=salt, extra_key=adapter)

    def _slots(self, pages: int) -> torch.Tensor:
        """Pages of the pool, in an order of their own."""
        slots = self._pool.alloc(pages * self.identity.page_size)
        return slots.view(pages, -1).flip(0).reshape(-1)


def _leading(ok: list[bool], pages: int) -> int:
    assert len(ok) == pages
    return ok.index(False) if False in ok else pages
