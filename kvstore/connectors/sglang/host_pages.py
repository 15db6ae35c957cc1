"""The pages of SGLang's host pools as buffers that the client reads and writes."""

from __future__ import annotations

import abc
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from kvstore.errors import UnsupportedError

__all__ = ["Buffers", "CopiedPages", "HostPages", "MappedPages", "bytes_of", "open_pages"]

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Buffers: TypeAlias = "list[list[Bytes]]"
"""For each page its pieces, one after the other the bytes of the page."""

# What pools of different kinds keep their memory in.
_MEMORY = ("kv_buffer", "k_buffer", "v_buffer", "index_k_buffer", "index_k_scale_buffer")


class HostPages(abc.ABC):
    """Pages of one host pool. `indices` are SGLang's: one integer a token slot, whole pages one after the other.

    Raises `ValueError` for indices that are no whole pages of the pool. Thread-safe as far as different pages go.
    """

    order: str
    """How the bytes of a page follow from the pool's memory; part of what a page means."""

    def __init__(self, pool: Any, piece_bytes: Sequence[int]) -> None:
        self.piece_bytes = tuple(piece_bytes)
        self.page_bytes = sum(piece_bytes)
        self.page_size = _page_size(pool)
        self._pool = pool

    @abc.abstractmethod
    def to_save(self, indices: torch.Tensor) -> Buffers:
        """The bytes of the pages; they must not change before the save has ended."""

    @abc.abstractmethod
    def to_load(self, indices: torch.Tensor) -> Buffers:
        """Where the bytes of the pages go."""

    @abc.abstractmethod
    def loaded(self, indices: torch.Tensor, buffers: Buffers, ok: Sequence[bool]) -> None:
        """What `to_load` gave was loaded where `ok`."""

    def count(self, indices: torch.Tensor) -> int:
        """How many pages these are."""
        pages, rest = divmod(int(indices.numel()), self.page_size)
        if rest:
            raise ValueError(f"{int(indices.numel())} token slots are no whole pages of {self.page_size}")
        return pages


class MappedPages(HostPages):
    """Pages where they lie: the client moves their bytes, and none are copied here."""

    order = "pieces"

    def __init__(self, pool: Any) -> None:
        _, sizes = pool.get_page_buffer_meta(torch.arange(_page_size(pool)))
        super().__init__(pool, [int(size) for size in sizes])
        # Views of whole allocations: slices of them keep the memory, and no pointer can leave it.
        regions = sorted(
            ((storage.data_ptr(), _bytes_of_storage(storage)) for storage in _storages(pool)), key=lambda r: r[0]
        )
        self._starts = [start for start, _ in regions]
        self._regions = [view for _, view in regions]
        self.to_save(torch.arange(self.page_size))  # fails now rather than later where memory is not found

    def to_save(self, indices: torch.Tensor) -> Buffers:
        pages, pieces = self.count(indices), len(self.piece_bytes)
        pointers, sizes = self._pool.get_page_buffer_meta(indices)
        if len(pointers) != pages * pieces or tuple(sizes) != self.piece_bytes * pages:
            raise ValueError(f"the host pool describes {pages} pages as {len(pointers)} pieces, not {pieces} a page")
        views = [self._view(int(pointer), size) for pointer, size in zip(pointers, sizes, strict=True)]
        return [views[start : start + pieces] for start in range(0, len(views), pieces)]

    to_load = to_save

    def loaded(self, indices: torch.Tensor, buffers: Buffers, ok: Sequence[bool]) -> None:
        """The bytes are where they belong."""

    def _view(self, pointer: int, size: int) -> Bytes:
        at = bisect_right(self._starts, pointer) - 1
        if at >= 0:
            region, offset = self._regions[at], pointer - self._starts[at]
            if offset + size <= region.size:
                return region[offset : offset + size]
        raise ValueError("the host pool describes a page outside its memory")


class CopiedPages(HostPages):
    """Pages that the pool itself copies, for pools that cannot say where a page lies."""

    order = "flat"

    def __init__(self, pool: Any) -> None:
        super().__init__(pool, [pool.get_dummy_flat_data_page().nbytes])

    def to_save(self, indices: torch.Tensor) -> Buffers:
        return [[bytes_of(self._pool.get_data_page(index, flat=True))] for index in self._first_slots(indices)]

    def to_load(self, indices: torch.Tensor) -> Buffers:
        return [[bytes_of(self._pool.get_dummy_flat_data_page())] for _ in range(self.count(indices))]

    def loaded(self, indices: torch.Tensor, buffers: Buffers, ok: Sequence[bool]) -> None:
        dtype = self._pool.get_dummy_flat_data_page().dtype
        for index, (page,), good in zip(self._first_slots(indices), buffers, ok, strict=True):
            if good:
                self._pool.set_from_flat_data_page(index, torch.from_numpy(page).view(dtype))

    def _first_slots(self, indices: torch.Tensor) -> list[int]:
        self.count(indices)
        slots: list[int] = indices[:: self.page_size].tolist()
        return slots


def open_pages(pool: Any, *, mapped: bool) -> HostPages:
    """The pages of a pool, where they lie if that is wanted and the pool can tell.

    Raises `UnsupportedError` for a pool whose pages cannot be read at all.
    """
    if mapped:
        try:
            return MappedPages(pool)
        except (NotImplementedError, ValueError):  # the pool's own refusal, or memory of a kind unknown here
            pass
    try:
        return CopiedPages(pool)
    except NotImplementedError as error:
        raise UnsupportedError(f"SGLang's {type(pool).__name__} has no pages for storage: {error}") from error


def bytes_of(tensor: torch.Tensor) -> Bytes:
    """The bytes of a contiguous CPU tensor, which they share memory with; those of a copy of any other."""
    view: Bytes = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return view


def _page_size(pool: Any) -> int:
    return int(getattr(pool, "logical_page_size", None) or pool.page_size)


def _storages(pool: Any) -> Iterator[torch.UntypedStorage]:
    """The allocations behind a pool, each once."""
    named = [getattr(pool, name, None) for name in _MEMORY]
    listed = pool.get_hybrid_pool_buffer() if hasattr(pool, "get_hybrid_pool_buffer") else ()
    seen = set()
    for buffer in (*named, *listed):
        for tensor in buffer if isinstance(buffer, list | tuple) else (buffer,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.numel():
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    yield storage


def _bytes_of_storage(storage: torch.UntypedStorage) -> Bytes:
    view: Bytes = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return view
