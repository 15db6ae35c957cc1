"""The transformers connector, used the way a script with a model uses it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import kvstore
from kvstore.config import ClientConfig
from kvstore.connectors.transformers import TransformersConnector
from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.support.blocks import Bytes

__all__ = ["TransformersDriver"]

_LAYERS, _KV_HEADS, _HEAD_SIZE = 2, 2, 16


class TransformersDriver(ConnectorDriver):
    distinguishes = frozenset({"model", "revision", "dtype", "page_size", "salt", "lora"})

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        config = ClientConfig(
            timeout_ms=settings["lookup_timeout_ms"], connect_timeout_ms=2000, reconnect_backoff_ms_max=100
        )
        self._store = kvstore.connect(endpoint, config=config, may_be_away=True)
        self._model = _build(getattr(torch, identity.dtype))
        self._connector = TransformersConnector(
            self._store,
            self._model,
            model_name=identity.model,
            revision=identity.revision,
            block_size=identity.page_size,
        )
        self._names: dict[str, Any] = {"salt": identity.salt.encode(), "adapter": identity.lora}

    def save(self, prompt: int, pages: int) -> int:
        cache = self._cache_of(prompt, pages)
        report = self._connector.save_prefix(cache, self._tokens(prompt, pages), **self._names)
        return report.blocks_present + report.blocks_stored

    def lookup(self, prompt: int, pages: int) -> int:
        return self.load(prompt, pages)

    def load(self, prompt: int, pages: int) -> int:
        loaded = self._connector.load_prefix(self._tokens(prompt, pages), **self._names)
        for index in range(loaded.blocks):
            check_page(self.identity, prompt, index, self._bytes_of(loaded.cache, index))
        return loaded.blocks

    def close(self) -> None:
        self._store.close()

    def _tokens(self, prompt: int, pages: int) -> Bytes:
        """One more than the pages have: the last one is always computed."""
        return np.arange(pages * self.identity.page_size + 1) + 1000 * prompt

    def _cache_of(self, prompt: int, pages: int) -> DynamicCache:
        nbytes = self._connector.namespace.block_bytes
        raw = np.concatenate([page(self.identity, prompt, index, nbytes) for index in range(pages)])
        blocks = torch.from_numpy(raw).view(self._model.dtype)
        blocks = blocks.view(pages, _LAYERS, 2, _KV_HEADS, self.identity.page_size, _HEAD_SIZE)
        cache = DynamicCache(config=self._model.config)
        for layer in range(_LAYERS):
            keys, values = (
                blocks[:, layer, pair].transpose(0, 1).reshape(1, _KV_HEADS, -1, _HEAD_SIZE) for pair in (0, 1)
            )
            cache.update(keys, values, layer)
        return cache

    def _bytes_of(self, cache: DynamicCache, index: int) -> Bytes:
        tokens = slice(index * self.identity.page_size, (index + 1) * self.identity.page_size)
        tensors = [tensor[0, :, tokens] for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return torch.stack(tensors).contiguous().view(torch.uint8).numpy().reshape(-1)


def _build(dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=_HEAD_SIZE,
        intermediate_size=16,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_KV_HEADS,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD_SIZE,
    )
    return LlamaForCausalLM(config).to(dtype)
