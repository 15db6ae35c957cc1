"""SGLang's own host pools on CPU memory, and what lies in their pages, told without the connector's help."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.utils import get_storage_hash_str

from tests.support.blocks import Bytes

__all__ = ["mha_pool", "mla_pool", "page_hashes", "read_pages", "storage_config", "write_pages"]

LAYERS = 3
PAGES = 16


def mha_pool(*, layout="layer_first", dtype=torch.float32, page_size=16, heads=2, head_size=32, pages=PAGES):
    device = MHATokenToKVPool(
        size=pages * page_size,
        page_size=page_size,
        dtype=dtype,
        head_num=heads,
        head_dim=head_size,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    return MHATokenToKVPoolHost(
        device.get_device_pool_infos()[0].buffer_info,
        *(1.0, 0, page_size, layout),
        pin_memory=False,
        device_capacity_tokens=device.size,
        start_layer=device.start_layer,
        end_layer=device.end_layer,
    )


def mla_pool(*, layout="page_first", dtype=torch.float32, page_size=16, pages=PAGES):
    device = MLATokenToKVPool(
        size=pages * page_size,
        page_size=page_size,
        dtype=dtype,
        kv_lora_rank=64,
        qk_rope_head_dim=16,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    return MLATokenToKVPoolHost(
        device.get_device_pool_infos()[0].buffer_info,
        *(1.0, 0, page_size, layout),
        pin_memory=False,
        device_capacity_tokens=device.size,
        start_layer=device.start_layer,
        end_layer=device.end_layer,
        target_layer_num=device.layer_num,
    )


def storage_config(endpoint, *, interface_v1=1, rank=0, world_size=1, mla=False, model="tiny", **changes):
    settings = {
        "backend_name": "kvstore",
        "module_path": "kvstore.connectors.sglang",
        "class_name": "KVStoreHiCache",
        "interface_v1": interface_v1,
        "endpoint": endpoint,
    }
    fields = {
        "tp_rank": rank,
        "tp_size": world_size,
        "pp_rank": 0,
        "pp_size": 1,
        "attn_cp_rank": 0,
        "attn_cp_size": 1,
        "is_mla_model": mla,
        "enable_storage_metrics": False,
        "is_page_first_layout": False,
        "model_name": model,
    }
    extra = {**settings, **changes.pop("settings", {})}
    return HiCacheStorageConfig(**{**fields, **changes}, extra_config=extra)


def page_hashes(prompt, pages, page_size, *, salt=None, extra_key=None):
    """As SGLang hashes the prompt whose token ids follow from a number."""
    tokens = np.random.default_rng(prompt).integers(0, 100_000, pages * page_size).tolist()
    key = RadixKey(tokens, extra_key, cache_salt=salt)
    return get_storage_hash_str(key, None, page_size=page_size)


def _memory(pool, slots):
    """The pieces of one page, where the pool says that they are."""
    pointers, sizes = pool.get_page_buffer_meta(slots)
    arrays = [(ctypes.c_uint8 * size).from_address(pointer) for pointer, size in zip(pointers, sizes, strict=True)]
    return [np.frombuffer(array, np.uint8) for array in arrays]


def write_pages(pool, indices: torch.Tensor, content: list[Bytes]) -> None:
    for slots, page in zip(indices.split(pool.page_size), content, strict=True):
        at = 0
        for piece in _memory(pool, slots):
            piece[:] = page[at : at + piece.size]
            at += piece.size
        assert at == page.size


def read_pages(pool, indices: torch.Tensor) -> list[Bytes]:
    return [np.concatenate(_memory(pool, slots)) for slots in indices.split(pool.page_size)]
