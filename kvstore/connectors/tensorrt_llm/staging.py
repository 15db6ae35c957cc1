"""Memory of the scheduler's process that all ranks of a host can read: blocks wait there for their step.

Header, a page: for each rank, as u64, the last step whose blocks it has copied out. Then slots, each with one block of
every rank, one after the other. It is an unnamed file, so it goes away with the last process that has it open.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvstore.errors import UnsupportedError

__all__ = ["RanksView", "Staging", "StagingPlace"]

_HEADER_BYTES = 4096
_RANKS_MAX = _HEADER_BYTES // 8


@dataclass(frozen=True, slots=True)
class StagingPlace:
    """Where another process of the host finds it."""

    path: str
    slots: int
    ranks: int
    page_bytes: int

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return _HEADER_BYTES + self.slots * self.ranks * self.page_bytes


class RanksView:
    """The memory as every process sees it. Raises `UnsupportedError` where it cannot be reached."""

    def __init__(self, place: StagingPlace) -> None:
        try:
            descriptor = os.open(place.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                memory = mmap.mmap(descriptor, place.total_bytes)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise UnsupportedError(
                f"this rank cannot map the staging memory of rank 0 ({error}): all ranks must run on one host, in one"
                " container, as one user"
            ) from error
        whole = np.frombuffer(memory, np.uint8)
        self.copied_steps = whole[: place.ranks * 8].view(np.uint64)
        self.blocks = whole[_HEADER_BYTES:].reshape(place.slots, place.ranks, place.page_bytes)


class Staging:
    """The scheduler's side: gives out slots, and takes them back when every rank has copied them. For one thread."""

    def __init__(self, *, ranks: int, page_bytes: int, budget_bytes: int) -> None:
        if ranks > _RANKS_MAX:
            raise UnsupportedError(f"{ranks} ranks; {_RANKS_MAX} are the most")
        slots = max(1, budget_bytes // (ranks * page_bytes))
        self._descriptor = os.memfd_create("kvstore-staging", os.MFD_CLOEXEC)
        self.place = StagingPlace(f"/proc/{os.getpid()}/fd/{self._descriptor}", slots, ranks, page_bytes)
        os.ftruncate(self._descriptor, self.place.total_bytes)
        self._view = RanksView(self.place)
        self._free = list(range(slots))
        self._in_steps: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        """How many slots can be taken."""
        self._reclaim()
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """That many slots, which must be free."""
        taken, self._free = self._free[:count], self._free[count:]
        assert len(taken) == count
        return taken

    def give_back(self, slots: Sequence[int]) -> None:
        """Slots that no step will copy."""
        self._free.extend(slots)

    def hand_over(self, slots: Sequence[int], step: int) -> None:
        """Slots that the ranks copy in that step, and that are free afterwards."""
        self._in_steps.setdefault(step, []).extend(slots)

    def buffers(self, slots: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
        """For each slot the pages of all ranks, one after the other."""
        return [page for slot in slots for page in self._view.blocks[slot]]

    def close(self) -> None:
        """Gives the memory back, once no rank has it mapped any more. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _reclaim(self) -> None:
        copied = int(self._view.copied_steps.min())
        for step in [step for step in self._in_steps if step <= copied]:
            self._free.extend(self._in_steps.pop(step))
