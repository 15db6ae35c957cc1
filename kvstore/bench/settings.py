"""What `kvstore bench` measures, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.config import GIB, KIB, MIB, format_bytes
from kvstore.errors import ConfigError

__all__ = ["LANES", "BenchSettings"]

LANES: Final = ("tcp", "shm", "mapped")

_BLOCK_BYTES: Final = (4 * KIB, 64 * KIB, 256 * KIB, MIB, 2 * MIB, 8 * MIB)
_BLOCK_BYTES_MAX: Final = 64 * MIB


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One run. Raises `ConfigError` for values that make no sense together.

    - `url`: the node to measure; None starts one;
    - `depths`: blocks in one call;
    - `rounds`: how often everything is measured, one after the other; a figure is a median over them;
    - `budget_ms`: how long one point is measured in one round;
    - `working_set_bytes`: of blocks for each size, on either side. Blocks are used in turn, so that a working set
      several times as large as the last-level cache is cold at each visit;
    - `timeout_ms`: deadline of each operation.
    """

    url: str | None = None
    lanes: Sequence[str] = LANES
    block_bytes: Sequence[int] = _BLOCK_BYTES
    depths: Sequence[int] = (1, 8, 32)
    rounds: int = 9
    budget_ms: int = 100
    working_set_bytes: int = 256 * MIB
    timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        for name in ("lanes", "block_bytes", "depths"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be given, each value once, not {list(values)}")
        if unknown := set(self.lanes) - set(LANES):
            raise ConfigError(f"there is no lane {', '.join(sorted(unknown))}; choose from {', '.join(LANES)}")
        if not all(4 * KIB <= size <= _BLOCK_BYTES_MAX for size in self.block_bytes):
            raise ConfigError("a block has 4 KiB to 64 MiB")
        if min(self.depths) < 1 or self.rounds < 1 or not 1 <= self.budget_ms <= 60_000 or self.timeout_ms < 1:
            raise ConfigError("depths, rounds, times and timeouts start at 1; a point takes at most 60,000 ms")
        largest_bytes = max(MIB, max(self.block_bytes) * max(self.depths))
        if not largest_bytes <= self.working_set_bytes <= 16 * GIB:
            raise ConfigError(
                f"the working set has {format_bytes(self.working_set_bytes)}; it must hold the largest batch"
                f" ({format_bytes(largest_bytes)}) and may have 16 GiB"
            )

    @classmethod
    def quick(cls, *, url: str | None = None) -> BenchSettings:
        """A first impression in some 20 seconds: fewer sizes and depths, less time for each."""
        return cls(url=url, block_bytes=(4 * KIB, 64 * KIB, 2 * MIB), depths=(1, 8), rounds=5, budget_ms=30)
