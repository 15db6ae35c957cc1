"""What a node needs in memory besides the bytes of its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["NodeMemory", "resident_bytes"]

_ARENA: Final = "kvstore-arena"
_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_RESIDENT: Final = re.compile(r"Rss: +([0-9]+) kB")


@dataclass(frozen=True)
class NodeMemory:
    """Before and after `blocks` blocks were stored. `empty_bytes` and `full_bytes` are what was resident besides the
    arena, code and libraries included; `index_bytes` is what the node itself counts. None: cannot be told."""

    blocks: int
    index_bytes: int
    empty_bytes: int | None = None
    full_bytes: int | None = None

    @property
    def block_bytes(self) -> float:
        """Bytes that each block added, or, where that cannot be told, the share of each in the index."""
        if self.full_bytes is None or self.empty_bytes is None:
            return self.index_bytes / self.blocks
        return (self.full_bytes - self.empty_bytes) / self.blocks


def resident_bytes(pid: int) -> int:
    """Memory of a process that is resident, without the arena."""
    total_kib, in_arena = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if _MAPPING.match(line):
            in_arena = _ARENA in line
        elif not in_arena and (found := _RESIDENT.match(line)):
            total_kib += int(found[1])
    return total_kib << 10
