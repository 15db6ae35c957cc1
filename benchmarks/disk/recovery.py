"""How long a node takes to know again what its disk holds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.disk.memory import BlockMemory
from benchmarks.disk.settings import TIMEOUT_MS
from benchmarks.disk.tier import LANE
from kvstore import connect
from kvstore.bench.node import ServedNode
from kvstore.bench.node_memory import Resident
from kvstore.config import GIB, KIB, MIB
from kvstore.errors import KVStoreError

__all__ = ["Recovery", "measure_recovery"]

BLOCK_BYTES: Final = 4 * KIB
_KEYS_A_CALL: Final = 1024
_RESTARTS: Final = 3
_LOGGED: Final = re.compile(r"([\d,]+) blocks \(.*\) recovered in ([\d.]+) s")


@dataclass(frozen=True)
class Recovery:
    """`blocks` were recovered in `recovered_s`, as the node logs it; `ready_s` from the start of its process to ready.

    Each figure has one entry a restart: after SIGTERM first, after kill -9 then. `empty_ready_s` is the start of a node
    whose disk is new. `resident_bytes` is what the process has in memory besides the arena, more than an empty one has.
    """

    blocks: int
    fill_s: float
    recovered_s: list[float]
    ready_s: list[float]
    empty_ready_s: float
    index_bytes: int
    resident_bytes: int
    device_bytes_a_block: float


def measure_recovery(directory: Path, memory: BlockMemory, blocks: int, advance: Callable[[str], None]) -> Recovery:
    """Fills a disk with `blocks` blocks of 4 KiB, then restarts its node again and again."""
    disk_bytes = blocks * BLOCK_BYTES * 5 // 4 + GIB
    flags = ("--memory", str(64 * MIB), "--disk", str(directory), "--disk-size", str(disk_bytes))
    start_s = time.monotonic()
    with ServedNode(*flags) as node:
        empty_ready_s = time.monotonic() - start_s
        empty = Resident.of_process(node.pid)
        fill_s, device_bytes = _fill(node.url, memory, blocks, advance)
        recovered_s, ready_s = [], []
        for restart in range(_RESTARTS):
            advance("recovery")
            node.stop() if restart == 0 else node.kill()
            start_s = time.monotonic()
            node.start()
            ready_s.append(time.monotonic() - start_s)
            recovered_s.append(_logged_seconds(node.log, restart, blocks))
        full = Resident.of_process(node.pid)
        with connect(node.url, timeout_ms=TIMEOUT_MS) as client:
            counters = client.stats()["node"] or {}
    return Recovery(
        blocks=blocks,
        fill_s=fill_s,
        recovered_s=recovered_s,
        ready_s=ready_s,
        empty_ready_s=empty_ready_s,
        index_bytes=counters["nvme_index_bytes"],
        resident_bytes=full.own_bytes - empty.own_bytes,
        device_bytes_a_block=device_bytes / blocks,
    )


def _fill(url: str, memory: BlockMemory, blocks: int, advance: Callable[[str], None]) -> tuple[float, int]:
    start_s = time.monotonic()
    with connect(url, lane=LANE, timeout_ms=TIMEOUT_MS) as client:
        for first in range(0, blocks, _KEYS_A_CALL):
            count = min(_KEYS_A_CALL, blocks - first)
            if not client.put(memory.new_keys(count), memory.contents(first, count, BLOCK_BYTES)).all_ok:
                raise KVStoreError(f"block {first} of those to recover was not stored")
            if first % (64 * _KEYS_A_CALL) == 0:
                advance(f"storing {blocks:,} blocks to recover")
        if not client.flush(timeout_ms=TIMEOUT_MS):
            raise KVStoreError("the blocks to recover could not be flushed")
        counters = client.stats()["node"] or {}
    return time.monotonic() - start_s, counters["device_bytes_written"]


def _logged_seconds(log: str, restart: int, blocks: int) -> float:
    found = _LOGGED.findall(log)
    if len(found) != restart + 1 or int(found[-1][0].replace(",", "")) != blocks:
        raise KVStoreError(f"not all blocks were recovered; the node says: {log.splitlines()[-5:]}")
    return float(found[-1][1])
