"""LMCache's adapters, made from JSON and used as its controllers do: submit, wait for the descriptor, ask."""

from __future__ import annotations

import argparse
import json
import select
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L1MemoryDesc
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.memory_management import MemoryFormat, MemoryObj, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.platform import consume_fd

__all__ = ["WAIT_S", "Buffers", "adapter_json", "find", "load", "object_keys", "open_adapter", "store", "wait_for"]

WAIT_S = 15.0
_CLASSES = {"native_plugin": "KVStoreNativePlugin", "plugin": "KVStoreL2Adapter"}


def adapter_json(kind: str, **params: Any) -> str:
    """What an operator gives as `--l2-adapter`."""
    where = {"module_path": "kvstore.connectors.lmcache", "class_name": _CLASSES[kind]}
    return json.dumps({"type": kind, **where, "adapter_params": params})


def open_adapter(kind: str, **params: Any) -> Any:
    """The adapter as LMCache's server makes it."""
    arguments = argparse.Namespace(l2_adapter=[adapter_json(kind, **params)])
    (config,) = parse_args_to_l2_adapters_config(arguments).adapters
    return create_l2_adapter(config, l1_memory_desc=L1MemoryDesc(ptr=0, size=1 << 20, align_bytes=1))


def object_keys(
    count: int, *, name: str = "prompt", model: str = "model", rank: int = 0, group: int = 0, salt: str = ""
) -> list[ObjectKey]:
    """Keys of `count` chunks that no other name gives."""
    return [
        ObjectKey(
            chunk_hash=f"{name} {index}".encode().ljust(32)[:32],
            model_name=model,
            kv_rank=ObjectKey.ComputeKVRank(2, rank, 2, rank),
            object_group_id=group,
            cache_salt=salt,
        )
        for index in range(count)
    ]


class Buffers:
    """Objects in memory of ours, one after the other as in LMCache's L1. `content` is `(count, bytes)` uint8."""

    def __init__(self, count: int, shape: Sequence[int] = (2, 4, 16, 32), dtype: torch.dtype = torch.float32) -> None:
        self.layout = MemoryLayoutDesc(shapes=[torch.Size(shape)], dtypes=[dtype])
        size = torch.Size(shape).numel() * dtype.itemsize
        memory = torch.zeros(count, size, dtype=torch.uint8)
        self.content = memory.numpy()
        self.objects: list[MemoryObj] = [
            TensorMemoryObj(
                raw_data=memory[index],
                metadata=MemoryObjMetadata(
                    shape=self.layout.shapes[0],
                    dtype=dtype,
                    address=index * size,
                    phy_size=size,
                    ref_count=1,
                    fmt=MemoryFormat.KV_2LTD,
                    shapes=self.layout.shapes,
                    dtypes=self.layout.dtypes,
                ),
                parent_allocator=None,
            )
            for index in range(count)
        ]

    @classmethod
    def random(cls, count: int, seed: int = 1, **layout: Any) -> Buffers:
        """Filled with bytes that follow from the seed."""
        buffers = cls(count, **layout)
        buffers.content[:] = np.random.default_rng(seed).integers(0, 256, buffers.content.shape, np.uint8)
        return buffers


def store(adapter: Any, keys: list[ObjectKey], buffers: Buffers) -> bool:
    """Whether all objects were stored."""
    task = adapter.submit_store_task(keys, buffers.objects)
    results = wait_for(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)
    return bool(results[task].is_successful())


def find(adapter: Any, keys: list[ObjectKey], *layouts: Buffers) -> list[bool]:
    """Which objects are found; they are locked then. `layouts` are those of the object groups, from 0."""
    task = adapter.submit_lookup_and_lock_task(keys, {group: one.layout for group, one in enumerate(layouts)})
    query = adapter.query_lookup_and_lock_result
    return _bools(wait_for(adapter.get_lookup_and_lock_event_fd(), lambda: query(task)), len(keys))


def load(adapter: Any, keys: list[ObjectKey], buffers: Buffers) -> list[bool]:
    """Which objects are in their buffers now."""
    task = adapter.submit_load_task(keys, buffers.objects)
    return _bools(wait_for(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task)), len(keys))


def wait_for(descriptor: int, ask: Callable[[], Any]) -> Any:
    """What `ask` answers after the descriptor has become readable, as LMCache waits; fails the test after `WAIT_S`."""
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    assert readable.poll(WAIT_S * 1000), "nothing has ended"
    consume_fd(descriptor)
    answer = ask()
    assert answer, "the descriptor was readable and nothing had ended"
    return answer


def _bools(bitmap: Any, count: int) -> list[bool]:
    return [bool(bitmap.test(index)) for index in range(count)]
