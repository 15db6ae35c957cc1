"""What LMCache's objects of one kind look like, and the names that follow from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.memory_management import MemoryObj

from kvstore.config import ConnectorConfig
from kvstore.connectors.lmcache.names import ObjectNames

__all__ = ["LayoutNames"]

# (shape, dtype) of each tensor in an object, in order.
Layout = tuple[tuple[tuple[int, ...], str], ...]
# Model, world size, object group: LMCache has one layout for each.
Kind = tuple[str, int, int]

_BYTES = "torch.uint8"
_NOT_KNOWN: Layout = ()


class LayoutNames:
    """Block keys of objects, with their layout in the fingerprint. Thread-safe.

    Shapes and element types come from LMCache's own descriptions: those of the buffers for stores and loads, those of
    the object groups for lookups. Objects that are mere bytes (a serde has encoded them, or a tool made them up) say
    nothing, nor do lookups without a description: those are named by what was last said of their kind.
    """

    def __init__(self, config: ConnectorConfig, *, format: str) -> None:
        self._config = config
        self._format = format
        self._lock = threading.Lock()
        self._described: dict[Kind, Layout] = {}
        self._seen: dict[Kind, Layout] = {}
        self._sizes: dict[Kind, int] = {}
        self._names: dict[Layout, ObjectNames] = {}
        self._names_of(_NOT_KNOWN)  # settings of no use are found out now

    def keys_to_find(
        self, keys: Sequence[ObjectKey], descriptions: Mapping[int, MemoryLayoutDesc]
    ) -> npt.NDArray[np.uint8]:
        """The block keys, `(n, 32)` uint8, of objects that are looked up."""
        with self._lock:
            for key in keys:
                description = descriptions.get(key.object_group_id)
                if description is not None and description.shapes:
                    self._described[_kind(key)] = _layout(description.shapes, description.dtypes)
        return self.known_keys(keys)

    def known_keys(self, keys: Sequence[ObjectKey]) -> npt.NDArray[np.uint8]:
        """... of objects by what is known about their kinds."""
        with self._lock:
            layouts = [self._known(_kind(key), _NOT_KNOWN) for key in keys]
        return self._block_keys(keys, layouts)

    def keys_of(self, keys: Sequence[ObjectKey], objects: Sequence[MemoryObj]) -> npt.NDArray[np.uint8]:
        """... of objects that are stored from, or loaded into, these buffers."""
        layouts = []
        with self._lock:
            for key, memory in zip(keys, objects, strict=True):
                layout = _layout_of(memory)
                self._seen[_kind(key)] = layout
                self._sizes[_kind(key)] = memory.get_size()
                layouts.append(self._known(_kind(key), layout) if _is_bytes(layout) else layout)
        return self._block_keys(keys, layouts)

    def object_bytes(self, key: ObjectKey) -> int:
        """The length of the last object of this kind; 0 before there was one."""
        with self._lock:
            return self._sizes.get(_kind(key), 0)

    def _known(self, kind: Kind, otherwise: Layout) -> Layout:
        return self._described.get(kind) or self._seen.get(kind) or otherwise

    def _block_keys(self, keys: Sequence[ObjectKey], layouts: list[Layout]) -> npt.NDArray[np.uint8]:
        names = [_name(key) for key in keys]
        if len(set(layouts)) <= 1:
            return self._names_of(layouts[0] if layouts else _NOT_KNOWN).keys(names)
        each = [self._names_of(layout).keys([name]) for name, layout in zip(names, layouts, strict=True)]
        return np.concatenate(each)

    def _names_of(self, layout: Layout) -> ObjectNames:
        found = self._names.get(layout)
        if found is None:
            found = ObjectNames(
                self._config,
                dtype=" ".join(sorted({dtype for _, dtype in layout})) or "not known",
                terms={"interface": "plugin", "format": self._format, "tensors": layout},
            )
            self._names[layout] = found
        return found


def _kind(key: ObjectKey) -> Kind:
    return key.model_name, ObjectKey.WorldSizeFromKVRank(key.kv_rank), key.object_group_id


def _name(key: ObjectKey) -> str:
    """As LMCache writes it for its native connectors, where separators are refused in all fields."""
    return f"{key.model_name}@{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}@{key.cache_salt}"


def _layout_of(memory: MemoryObj) -> Layout:
    described = memory.meta
    if described.shapes and described.dtypes:
        return _layout(described.shapes, described.dtypes)
    return _layout([described.shape], [described.dtype])


def _layout(shapes: Sequence[Any], dtypes: Sequence[Any]) -> Layout:
    return tuple((tuple(map(int, shape)), str(dtype)) for shape, dtype in zip(shapes, dtypes, strict=True))


def _is_bytes(layout: Layout) -> bool:
    return len(layout) == 1 and len(layout[0][0]) == 1 and layout[0][1] == _BYTES
