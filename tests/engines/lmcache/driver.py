"""Both adapters as LMCache's controllers drive them, with its own token hashes, keys and memory objects."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.multiprocess.token_hasher import TokenHasher

from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.engines.lmcache.adapters import Buffers, find, load, open_adapter, store

__all__ = ["NativePluginDriver", "PluginDriver"]

# Equal for all element types and orders, so that no difference in length gives a wrong name away.
_TOKEN_BYTES = 128
_ORDERS = {"first": (2, 4), "second": (4, 2)}


class _LMCacheDriver(ConnectorDriver):
    kind: ClassVar[str]
    # LMCache does not know of adapters (LoRA): its keys are tokens and a salt.
    distinguishes = frozenset(vars(Identity())) - {"lora"}

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        self._hasher = TokenHasher(chunk_size=identity.page_size)
        params = {"endpoint": endpoint, "revision": identity.revision, **self.params(), **settings}
        self.adapter = open_adapter(self.kind, **params)

    def params(self) -> dict[str, Any]:
        """What the operator says and LMCache does not."""
        return {}

    def save(self, prompt: int, pages: int) -> int:
        buffers = self._buffers(pages)
        for index in range(pages):
            buffers.content[index] = page(self.identity, prompt, index, buffers.content.shape[1])
        return pages if store(self.adapter, self._keys(prompt, pages), buffers) else 0

    def lookup(self, prompt: int, pages: int) -> int:
        keys = self._keys(prompt, pages)
        found = find(self.adapter, keys, self._buffers(1))
        self.adapter.submit_unlock([key for key, there in zip(keys, found, strict=True) if there])
        return _leading(found)

    def load(self, prompt: int, pages: int) -> int:
        buffers = self._buffers(pages)
        buffers.content[:] = 0xEE
        loaded = load(self.adapter, self._keys(prompt, pages), buffers)
        for index in np.flatnonzero(loaded):
            check_page(self.identity, prompt, int(index), buffers.content[index])
        return _leading(loaded)

    def close(self) -> None:
        self.adapter.close()

    def _buffers(self, count: int) -> Buffers:
        dtype = getattr(torch, self.identity.dtype)
        shape = (*_ORDERS[self.identity.layout], self.identity.page_size, _TOKEN_BYTES // dtype.itemsize)
        return Buffers(count, shape, dtype)

    def _keys(self, prompt: int, pages: int) -> list[ObjectKey]:
        tokens = [prompt, *range(1, pages * self.identity.page_size)]
        size, rank = self.identity.world_size, self.identity.rank
        return [
            ObjectKey(
                chunk_hash=digest,
                model_name=self.identity.model,
                kv_rank=ObjectKey.ComputeKVRank(size, rank, size, rank),
                cache_salt=self.identity.salt,
            )
            for digest in self._hasher.compute_chunk_hashes(tokens)
        ]


class NativePluginDriver(_LMCacheDriver):
    kind = "native_plugin"

    def params(self) -> dict[str, Any]:
        return {"dtype": self.identity.dtype, "format": self.identity.layout}


class PluginDriver(_LMCacheDriver):
    kind = "plugin"


def _leading(values: list[bool]) -> int:
    return values.index(False) if False in values else len(values)
