"""Traces of requests: chains of block numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["RequestTrace", "numbered", "read_trace"]


@dataclass(frozen=True)
class RequestTrace:
    """`blocks` (references,) uint32: the chains one after the other, numbered in order of appearance; `lengths`
    (requests,) uint32: blocks of each."""

    blocks: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint32]

    @property
    def unique_blocks(self) -> int:
        """How many different blocks the requests ask for."""
        return int(self.blocks.max()) + 1 if len(self.blocks) else 0


def numbered(chains: Iterable[Iterable[int]]) -> RequestTrace:
    """Requests as chains of ids in any order and with gaps, numbered as a replay needs them.

    A block is known by its id and the block before it, so that an id that follows different ones, which no hash of a
    prefix does, stands for different blocks.
    """
    numbers: dict[tuple[int, int], int] = {}
    blocks: list[int] = []
    lengths: list[int] = []
    for chain in chains:
        before = -1
        start = len(blocks)
        for block_id in chain:
            before = numbers.setdefault((before, block_id), len(numbers))
            blocks.append(before)
        lengths.append(len(blocks) - start)
    return RequestTrace(np.array(blocks, np.uint32), np.array(lengths, np.uint32))


def read_trace(path: Path) -> RequestTrace:
    """Reads one JSON object a line with `hash_ids`, the format of the traces released with Mooncake (FAST 2025).

    Raises `OSError`, and `ValueError` for a line that is not of this format.
    """
    chains = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                chains.append([int(block_id) for block_id in json.loads(line)["hash_ids"]])
            except (TypeError, KeyError, ValueError) as error:
                raise ValueError(f"{path}:{number} is not a request with hash_ids: {error!r}") from error
    return numbered(chains)
