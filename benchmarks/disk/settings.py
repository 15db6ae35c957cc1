"""What one run measures, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvstore.config import GIB, KIB, MIB

__all__ = ["LARGE_BYTES", "SMALL_BYTES", "TIMEOUT_MS", "DiskSettings"]

LARGE_BYTES: Final = 2 * MIB
SMALL_BYTES: Final = 64 * KIB
TIMEOUT_MS: Final = 120_000


@dataclass(frozen=True, kw_only=True)
class DiskSettings:
    """One run.

    - `directory`: where disks, the raw file and RocksDB are made;
    - `data_bytes`: written and read once in each round, for each size: several times the memory of the node;
    - `memory_bytes`: of the node; `hits_memory_bytes`: of the one whose memory hits are measured;
    - `depth`: blocks under way at once;
    - `raw_ms`: how long the raw disk is measured in each round, for writes and for reads;
    - `samples`: single cold reads in each round, idle and under load each;
    - `rocks_bytes`: put into RocksDB and read back, in the first `rocks_rounds` rounds;
    - `recovery_blocks`: blocks of 4 KiB to recover; 0 leaves that out.
    """

    directory: Path
    block_bytes: Sequence[int] = (LARGE_BYTES, SMALL_BYTES)
    rounds: int = 5
    data_bytes: int = 2 * GIB
    memory_bytes: int = 256 * MIB
    hits_memory_bytes: int = 2 * GIB
    depth: int = 8
    raw_ms: int = 1200
    samples: int = 500
    rocks_bytes: int = 512 * MIB
    rocks_rounds: int = 3
    recovery_blocks: int = 0

    @classmethod
    def quick(cls, directory: Path, recovery_blocks: int) -> DiskSettings:
        """A first impression in half a minute."""
        return cls(
            directory=directory,
            rounds=2,
            data_bytes=768 * MIB,
            hits_memory_bytes=GIB,
            raw_ms=400,
            samples=150,
            rocks_bytes=128 * MIB,
            rocks_rounds=1,
            recovery_blocks=recovery_blocks,
        )
