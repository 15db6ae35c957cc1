"""Lets SGLang run on a CPU without CUDA builds of what it imports. Python loads this at its start (PYTHONPATH).

For tests only, and nothing of it lies on the connector's path: torchvision's operators are declared, torchaudio is an
empty module, host memory is not pinned, and the copy between the engine's KV and SGLang's host pool is an indexed one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

_POOL_HOST = "sglang.srt.mem_cache.pool_host"
_KEPT: list[object] = []


def _declare_torchvision_operators(_module: ModuleType) -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # what it declares goes when it goes


def _leave_host_memory_unpinned(module: ModuleType) -> None:
    make = module.HostKVCache.__init__

    def make_unpinned(pool, *arguments, **options):
        make(pool, *arguments, **options | ({"pin_memory": False} if "pin_memory" in options else {}))

    module.HostKVCache.__init__ = make_unpinned


def _copy_by_index(module: ModuleType) -> None:
    def transfer_kv_direct(src_layers, dst_layers, src_indices, dst_indices, page_size):
        for source, target in zip(src_layers, dst_layers, strict=True):
            target[dst_indices] = source[src_indices]

    module.transfer_kv_direct = transfer_kv_direct


_BEFORE: dict[str, Callable[[ModuleType], None]] = {"torchvision": _declare_torchvision_operators}
_AFTER: dict[str, Callable[[ModuleType], None]] = {
    f"{_POOL_HOST}.base": _leave_host_memory_unpinned,
    f"{_POOL_HOST}.mha": _copy_by_index,
    f"{_POOL_HOST}.mla": _copy_by_index,
}
_EMPTY = {"torchaudio"}


class _EmptyLoader(importlib.abc.Loader):
    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "0"


class _PatchingLoader(importlib.abc.Loader):
    def __init__(self, name: str, loader: importlib.abc.Loader) -> None:
        self._name = name
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if patch := _BEFORE.get(self._name):
            patch(module)
        self._loader.exec_module(module)
        if patch := _AFTER.get(self._name):
            patch(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in _EMPTY:
            return importlib.util.spec_from_loader(name, _EmptyLoader(), is_package=True)
        if name not in _BEFORE and name not in _AFTER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(name, spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
