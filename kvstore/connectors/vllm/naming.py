"""What vLLM's chunks are called in the store: everything two engines must agree on, from vLLM's own configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final

from vllm.config import VllmConfig
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.version import __version__, __version_tuple__

from kvstore.config import ClientConfig, ConnectorConfig, format_bytes
from kvstore.connectors.core import read_tenant_secret
from kvstore.errors import ConfigError
from kvstore.keys import Namespace
from kvstore.layout import PageLayout

__all__ = ["check_hash_seed", "check_page_bytes", "find_engine_config", "model_terms", "namespace_of"]

# Versions that were seen to read each other's chunks (tests/engines/vllm). Any other shares names only with itself,
# until somebody has looked: nothing in vLLM's configuration says that it lays chunks out in another way.
_COMPATIBLE: Final = ((0, 32), (0, 33))
_SEEDED_ALGORITHMS: Final = frozenset({"xxhash", "xxhash_cbor"})


def find_engine_config() -> VllmConfig | None:
    """The configuration of the engine that is being set up by our callers; None outside of such a set-up.

    vLLM hands tiers an excerpt without the revision and quantisation of the weights, and two engines that differ in
    those must never share a name. The functions that called us have the whole of it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("vllm_config")
        if isinstance(found, VllmConfig):
            return found
        frame = frame.f_back
    return None


def check_hash_seed(engine: VllmConfig | None) -> None:
    """Raises `ConfigError` for block hashes that no other process can have."""
    if engine is None or "PYTHONHASHSEED" in os.environ:
        return
    algorithm = engine.cache_config.prefix_caching_hash_algo
    if algorithm in _SEEDED_ALGORITHMS:
        raise ConfigError(
            f"prefix_caching_hash_algo {algorithm!r} gives block hashes that differ from process to process, so nothing"
            " that is saved would ever be found: set PYTHONHASHSEED to the same number for all engines, or use sha256"
        )


def check_page_bytes(page_bytes: int) -> None:
    """Raises `ConfigError` for pages that no client would take."""
    most = ClientConfig.load().max_block_bytes
    if page_bytes > most:
        raise ConfigError(
            f"a chunk has {format_bytes(page_bytes)}, and {format_bytes(most)} are the most that the store takes as one"
            " block: make blocks_per_chunk or vLLM's block_size smaller"
        )


def model_terms(engine: VllmConfig | None) -> dict[str, Any]:
    """What changes the values in a KV cache beside the weights; empty where it is not known."""
    if engine is None:
        return {}
    model = engine.model_config
    overrides = model.hf_overrides
    return {
        "compute_dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization and str(model.quantization),
        "hf_overrides": overrides if isinstance(overrides, dict) else repr(overrides),
        "unquantized_layers": list(engine.cache_config.kv_cache_dtype_skip_layers),
        "hash_algorithm": engine.cache_config.prefix_caching_hash_algo,
    }


def namespace_of(
    config: ConnectorConfig,
    offloading: OffloadingConfig,
    engine: VllmConfig | None,
    *,
    page_bytes: int,
    layout: str,
    extra_terms: Mapping[str, Any],
    engine_hash: str = "",
) -> Namespace:
    """The names of chunks of `page_bytes` bytes, laid out as `layout` calls it.

    Without `engine_hash`, call it in the scheduler's process and once requests arrive: the seed of vLLM's block hashes
    is not known before. Salt and LoRA adapter are in those hashes, and so is the cache group in the key that vLLM makes
    of them.
    """
    chunk_blocks = offloading.cache.blocks_per_chunk
    version = __version_tuple__[:2]
    terms = {
        "format": "0.32" if _COMPATIBLE[0] <= version <= _COMPATIBLE[-1] else __version__,
        "chunk": layout,
        "kv_cache_layout": offloading.kv_cache_layout,
        "groups": [[group.tokens_per_block, list(group.layer_names)] for group in offloading.groups],
        "tokens_per_hash": offloading.cache.tokens_per_hash,
        "blocks_per_chunk": chunk_blocks,
        **model_terms(engine),
        **extra_terms,
    }
    return Namespace(
        model=config.model or offloading.model.name,
        revision=config.revision or _revision(engine) or "unknown",
        layout=PageLayout(engine="vllm", dtype=offloading.model.dtype, page_bytes=page_bytes, terms=terms),
        block_size=offloading.groups[0].tokens_per_block * chunk_blocks,
        # Algorithm and seed are both in the hash that every chain of hashes begins with.
        engine_hash=engine_hash or f"vllm-{kv_cache_utils.NONE_HASH.hex()}",
        tenant_secret=read_tenant_secret(config),
    )


def _revision(engine: VllmConfig | None) -> str:
    """The commit that the weights were loaded from where it is known, else what the operator asked for."""
    if engine is None:
        return ""
    model = engine.model_config
    return getattr(model.hf_config, "_commit_hash", None) or model.revision or ""
