"""What a page of a host pool means: the namespace of its blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import torch
from sglang.srt import runtime_context

from kvstore.config import ConnectorConfig
from kvstore.connectors.sglang.host_pages import HostPages
from kvstore.keys import Namespace
from kvstore.layout import PageLayout

__all__ = ["engine_settings", "is_replicated", "is_writer", "namespace_of", "weight_version"]

ENGINE_HASH: Final = "sglang-sha256"

# Pools of models with latent attention that hold the same on every tensor-parallel rank; by name, because their modules
# have moved between releases. All other pools hold the part of their rank.
_REPLICATED: Final = frozenset(
    {"MLATokenToKVPoolHost", "DSAIndexerPoolHost", "DeepSeekV4PagedHostPool", "DeepSeekV4StateHostPool"}
)

# Attributes of host pools that say what their pages hold, as far as a pool has them.
_GEOMETRY: Final = (
    *("layout", "storage_format_tag", "start_layer", "end_layer", "layer_num", "target_layer_num", "page_size"),
    *("head_num", "head_dim", "v_head_dim", "head_group_num", "dcp_size", "size_per_token"),
    *("kv_lora_rank", "qk_rope_head_dim", "kv_cache_dim", "override_kv_cache_dim", "dsa_kv_cache_store_fp8"),
    *("indexer_dtype", "index_head_dim", "indexer_page_stride_size", "item_bytes", "row_bytes", "pool_name"),
    *("num_mamba_layers", "temporal_dtype", "conv_dtype", "temporal_state_elem_size", "conv_state_elem_sizes"),
    *("temporal_state_shape", "conv_state_shapes"),
)

# What the engine computes KV from and how it lays it out, by SGLang's own names.
_MODEL: Final = (
    *("model_path", "revision", "dtype", "quantization", "quantization_param_path", "kv_cache_dtype", "load_format"),
    *("json_model_override_args", "modelopt_quant", "qsa_indexer_dtype"),
)
_MEMORY: Final = ("enable_page_major_kv_layout", "enable_unified_memory")
_DRAFT: Final = (
    *("speculative_algorithm", "speculative_draft_model_path", "speculative_draft_model_revision"),
    *("speculative_draft_load_format", "speculative_draft_kv_cache_dtype", "speculative_draft_model_quantization"),
)
_ENVIRONMENT: Final = ("SGLANG_USE_HND_KVCACHE", "SGLANG_AITER_KV_CACHE_LAYOUT")


def engine_settings() -> dict[str, Any]:
    """The settings of the engine in this process that change its KV; {} outside of an engine.

    Their names are SGLang's; `draft` holds those of a speculative draft model.
    """
    if not runtime_context.get_context().is_config_namespace_published("model"):
        return {}
    model, memory, draft = runtime_context.get_model(), runtime_context.get_memory(), runtime_context.get_spec()
    return _read(model, _MODEL) | _read(memory, _MEMORY) | {"draft": _read(draft, _DRAFT)}


def weight_version() -> str:
    """What the engine calls its weights now, which it may replace while it runs; "" outside of an engine."""
    if not runtime_context.get_context().is_config_namespace_published("serving"):
        return ""
    return str(runtime_context.get_serving().weight_version)


def is_writer(storage: Any) -> bool:
    """Whether this rank saves what all ranks hold; SGLang 0.5.20 to 0.5.22 know only the first one."""
    return bool(getattr(storage, "is_storage_writer", storage.tp_rank == 0))


def is_replicated(storage: Any, pool: Any) -> bool:
    """Whether all tensor-parallel ranks hold the same in this pool, so that one of them writes and all read."""
    return bool(storage.is_mla_model) and not _REPLICATED.isdisjoint(base.__name__ for base in type(pool).__mro__)


def namespace_of(
    storage: Any,
    name: str,
    pool: Any,
    pages: HostPages,
    *,
    config: ConnectorConfig,
    secret: bytes,
    engine: Mapping[str, Any],
    generation: str = "",
) -> Namespace:
    """The namespace of a pool's pages.

    `storage` is SGLang's `HiCacheStorageConfig`, `name` its name of the pool, `engine` as `engine_settings` gives it.
    `generation` parts what was stored before the engine was told to forget it. Raises `InvalidArgumentError` where the
    engine names no model, and the settings neither.
    """
    settings = dict(engine)
    path, revision, draft = (
        settings.pop("model_path", None),
        settings.pop("revision", None),
        settings.pop("draft", None),
    )
    has_draft = name.startswith("draft") or _layers_of_draft(pool)
    terms = {
        "pool": name,
        "class": type(pool).__name__,
        "order": pages.order,
        "piece_bytes": pages.piece_bytes,
        "geometry": {key: _plain(getattr(pool, key)) for key in _GEOMETRY if getattr(pool, key, None) is not None},
        "pipeline": (storage.pp_rank, storage.pp_size),
        "context": (storage.attn_cp_rank, storage.attn_cp_size),
        "decode_context": (getattr(storage, "dcp_rank", 0), getattr(storage, "dcp_size", 1)),
        "engine": settings,
        "draft": draft if has_draft else None,
        "environment": {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ},
        "rocm": torch.version.hip is not None,  # its float8 has the same name and other values
        "generation": generation,
    }
    # SGLang keeps every float8 as uint8: which one it is only the engine's settings say.
    dtype = f"{_plain(pool.dtype)} as {settings.get('kv_cache_dtype', 'auto')}"
    shared = is_replicated(storage, pool)
    return Namespace(
        model=config.model or path or storage.model_name or "",
        revision=config.revision or revision or "none",
        layout=PageLayout(engine="sglang", dtype=dtype, page_bytes=pages.page_bytes, terms=terms),
        block_size=pages.page_size,
        rank=0 if shared else storage.tp_rank,
        world_size=1 if shared else storage.tp_size,
        engine_hash=ENGINE_HASH,
        tenant_secret=secret,
    )


def _layers_of_draft(pool: Any) -> bool:
    """Whether layers of a draft model are packed behind the model's own."""
    layers = getattr(pool, "layer_num", 0)
    return bool(layers != getattr(pool, "target_layer_num", layers))


def _read(bag: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Names that this release of SGLang does not have stand for nothing it could differ in."""
    return {name: _plain(getattr(bag, name, None)) for name in names}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value).removeprefix("torch.")
