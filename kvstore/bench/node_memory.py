"""What a node needs in memory besides the bytes of its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

__all__ = ["NodeMemory", "Resident"]

_ARENA: Final = "kvstore-arena"
_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_SIZE: Final = re.compile(r"(Rss|Anonymous): +([0-9]+) kB")
_MEMORY_AS_FILE: Final = ("/memfd:", "/dev/")


@dataclass(frozen=True)
class Resident:
    """Memory of a process that is resident, without the arena.

    `file_bytes` of it are unchanged pages of programs and libraries: the kernel has them once for all processes, and
    can drop them. `own_bytes` are all others.
    """

    own_bytes: int
    file_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.own_bytes + self.file_bytes

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """Raises `OSError` if it is not ours to look into."""
        own_kib, file_kib, place = 0, 0, ""
        for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
            if _MAPPING.match(line):
                place = "".join(line.split(maxsplit=5)[5:])
            elif _ARENA not in place and (found := _SIZE.match(line)):
                is_file = place.startswith("/") and not place.startswith(_MEMORY_AS_FILE)
                kib = int(found[2])
                if found[1] == "Rss":
                    own_kib, file_kib = (own_kib, file_kib + kib) if is_file else (own_kib + kib, file_kib)
                elif is_file:  # changed pages of a file are memory of the process's own
                    own_kib, file_kib = own_kib + kib, file_kib - kib
        return cls(own_kib << 10, file_kib << 10)


@dataclass(frozen=True)
class NodeMemory:
    """A node with `blocks` blocks, for which it counts `index_bytes` itself.

    `empty` and `full` are the process without blocks and with these; None where it cannot be looked into.
    """

    blocks: int
    index_bytes: int
    empty: Resident | None = None
    full: Resident | None = None

    @property
    def block_bytes(self) -> float | None:
        """Bytes that each block added to the process, besides its own."""
        if self.full is None or self.empty is None:
            return None
        return (self.full.total_bytes - self.empty.total_bytes) / self.blocks
