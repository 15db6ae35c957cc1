"""Blocks of a worker's KV memory, gathered into rows of host memory and scattered back, on CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

__all__ = ["Copy", "Pages"]


class Copy:
    """A copy that was begun; on CPU it is over already."""

    def __init__(self, event: torch.cuda.Event | None = None, keep: tuple[torch.Tensor, ...] = ()) -> None:
        self._event = event
        self._keep = keep  # what the device still reads or writes

    @property
    def is_done(self) -> bool:
        """Whether both sides may be used again; does not wait."""
        return self._event is None or self._event.query()

    def wait(self) -> None:
        """Until it is done, which takes no longer than the device needs to copy."""
        if self._event is not None:
            self._event.synchronize()


class Pages:
    """`tensors` are `(blocks, bytes)` int8, of one device; a block of group g is what `groups[g]` lists of them.

    `groups[g]` has (index into `tensors`, leading bytes of the page) for each layer. Blocks of several groups are given
    as one list of numbers a group, and stand in the rows in that order. For one thread.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], groups: Sequence[Sequence[tuple[int, int]]]) -> None:
        self._tensors = list(tensors)
        self._groups = [list(group) for group in groups]
        self.block_bytes = [sum(size for _, size in group) for group in self._groups]
        """Bytes of a block of each group."""
        self.row_bytes = max(self.block_bytes)
        self._device = self._tensors[0].device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def empty_rows(self, count: int) -> torch.Tensor:
        """`(count, row_bytes)` int8 in host memory, pinned where there is a GPU; not initialised."""
        return torch.empty((count, self.row_bytes), dtype=torch.int8, pin_memory=self._stream is not None)

    def gather(self, blocks: Sequence[Sequence[int]], rows: torch.Tensor) -> Copy:
        """Begins to copy blocks, as whatever was submitted before leaves them, into `rows`."""
        if self._stream is None:
            for part, page, ids in self._parts(blocks, rows):
                part.copy_(page[ids])
            return Copy()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            staged = torch.empty(rows.shape, dtype=torch.int8, device=self._device)
            for part, page, ids in self._parts(blocks, staged):
                part.copy_(page[ids])
            rows.copy_(staged, non_blocking=True)
            return self._begun(rows, staged)

    def scatter(self, rows: torch.Tensor, blocks: Sequence[Sequence[int]]) -> Copy:
        """Begins to copy `rows` into blocks, after whatever was submitted before."""
        if self._stream is None:
            for part, page, ids in self._parts(blocks, rows):
                page[ids] = part
            return Copy()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            staged = rows.to(self._device, non_blocking=True)
            for part, page, ids in self._parts(blocks, staged):
                page[ids] = part
            return self._begun(rows, staged)

    def _parts(
        self, blocks: Sequence[Sequence[int]], rows: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each layer of each group: its part of the rows, its pages, and which of them."""
        first = 0
        for group, numbers in zip(self._groups, blocks, strict=True):
            if not numbers:
                continue
            ids = torch.tensor(numbers, dtype=torch.long, device=rows.device)
            begin = 0
            for index, size in group:
                part = rows[first : first + len(numbers), begin : begin + size]
                yield part, self._tensors[index][:, :size], ids
                begin += size
            first += len(numbers)

    def _begun(self, *keep: torch.Tensor) -> Copy:
        event = torch.cuda.Event()
        event.record(self._stream)
        return Copy(event, keep)
