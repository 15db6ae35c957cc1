"""One run: everything in turns, again and again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.disk.figures import Figures, of_latencies
from benchmarks.disk.hits import Hits
from benchmarks.disk.memory import BlockMemory
from benchmarks.disk.noise import NoiseMeter
from benchmarks.disk.recovery import measure_recovery
from benchmarks.disk.rocks import measure_rocks
from benchmarks.disk.settings import DiskSettings
from benchmarks.disk.tier import Tier
from kvstore.bench.node import ServedNode
from kvstore.config import GIB, KIB, format_bytes
from kvstore.transport import native

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["run_rounds"]

# Larger than what the raw disk writes in a round: no place is read that was just written.
_RAW_FILE_BYTES: Final = 2 * GIB
_PART_BYTES: Final = 512 * KIB
_SEED: Final = 5

Advance = Callable[[str], None]


def run_rounds(settings: DiskSettings, advance: Advance) -> Figures:
    """Measures as `settings` say; all that it made is gone on return. `advance` is told what comes next.

    Raises `KVStoreError` when something is not done in full, and `OSError` when the disk cannot be measured.
    """
    figures = Figures()
    memory = BlockMemory(np.random.default_rng(_SEED))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-disk-", dir=settings.directory)))
        advance("first writes")
        raw = native().DiskBounds(memory.source, memory.target, str(folder), _RAW_FILE_BYTES)
        data_bytes = len(settings.block_bytes) * settings.data_bytes
        node = stack.enter_context(_node(folder / "disk", settings.memory_bytes, 2 * data_bytes + GIB))
        tiers = [
            stack.enter_context(Tier(node.url, memory, block_bytes, settings.data_bytes))
            for block_bytes in settings.block_bytes
        ]
        # A disk is slower where it was never written: the file system notes what is valid now, place by place.
        for tier in tiers:
            first = tier.write_back()
            figures.add(tier.block_bytes, {"first write-back": first.stored_bytes / first.seconds})
            tier.check_bytes()
            counters = tier.counters()
        figures.index_bytes_a_block[settings.block_bytes[-1]] = counters["nvme_index_bytes"] / counters["nvme_blocks"]
        # In more memory: what is read from it shall not be pushed out by what is written meanwhile.
        waiting, eager = (
            stack.enter_context(_node(folder / name, settings.hits_memory_bytes, 4 * GIB, "--admission", name))
            for name in ("off", "eager")
        )
        hits = stack.enter_context(Hits(waiting.url, eager.url, memory, folder, settings.hits_memory_bytes // 2))
        meter = NoiseMeter([node.pid, waiting.pid, eager.pid], folder)
        for number in range(settings.rounds):
            for tier in tiers:
                advance(f"round {number + 1}, blocks of {format_bytes(tier.block_bytes)}")
                figures.add(tier.block_bytes, _round(settings, number, raw, tier))
            advance(f"round {number + 1}, hits")
            figures.hits.append(hits.measure())
            figures.noise.append(meter.look())
            if number < settings.rocks_rounds:
                advance(f"round {number + 1}, RocksDB")
                for block_bytes in settings.block_bytes:
                    figures.add(block_bytes, _rocks_round(settings, folder, memory, block_bytes))
                meter.look()  # its threads are ours, but what the page cache writes later is nobody's
    if settings.recovery_blocks:
        with tempfile.TemporaryDirectory(prefix="kvstore-disk-", dir=settings.directory) as recovered:
            figures.recovery = measure_recovery(Path(recovered) / "disk", memory, settings.recovery_blocks, advance)
    return figures


def _node(directory: Path, memory_bytes: int, disk_bytes: int, *flags: str) -> ServedNode:
    return ServedNode(
        *flags,
        *("--memory", str(memory_bytes), "--prefault", "--log-level", "warning"),
        *("--disk", str(directory), "--disk-size", str(disk_bytes)),
    )


def _round(settings: DiskSettings, number: int, raw: _native.DiskBounds, tier: Tier) -> dict[str, float]:
    """The raw disk beside the tier; which of the two goes first changes from round to round.

    Each reads right after it has written: what a host below us still has in its memory, it has of both.
    """
    size, depth = tier.block_bytes, settings.depth

    def raw_rate(verb: str) -> dict[str, float]:
        # As many bytes under way, whole blocks or parts of them: which is faster depends on the device.
        shapes = {(size, depth), (min(size, _PART_BYTES), depth * max(1, size // _PART_BYTES))}
        moved = [raw.measure(verb, *shape, settings.raw_ms // len(shapes)) for shape in sorted(shapes)]
        return {f"raw {verb}": max(one.bytes / one.seconds for one in moved)}

    def write_back() -> dict[str, float]:
        done = tier.write_back()
        return {
            "write-back": done.stored_bytes / done.seconds,
            "device bytes a byte": done.device_bytes / done.stored_bytes,
        }

    def cold_reads() -> dict[str, float]:
        return {"cold reads": tier.read_in_flight(depth), "cold reads in calls": tier.read_in_calls(depth)}

    def cold_latencies() -> dict[str, float]:
        raw_reads = raw.measure("read", size, 1, settings.raw_ms // 2)
        return {
            **of_latencies("raw read alone", np.array(raw_reads.block_seconds)),
            **of_latencies("cold read", tier.read_singly(settings.samples)),
            **of_latencies("cold read beside writer", tier.read_singly_beside_writer(settings.samples)),
            **of_latencies("hit", tier.hit_singly()),
        }

    def raw_side() -> dict[str, float]:
        return raw_rate("write") | raw_rate("read")

    def tier_side() -> dict[str, float]:
        return write_back() | cold_reads()

    measured: dict[str, float] = {}
    for measure in (raw_side, tier_side) if number % 2 == 0 else (tier_side, raw_side):
        measured |= measure()
    return measured | cold_latencies()


def _rocks_round(settings: DiskSettings, folder: Path, memory: BlockMemory, block_bytes: int) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(prefix="rocks-", dir=folder) as directory:
        rates = measure_rocks(Path(directory) / "database", memory, block_bytes, settings.rocks_bytes)
    return {
        "RocksDB put": rates.put,
        "RocksDB get, cached": rates.cached,
        "RocksDB get, uncached": rates.uncached,
        "RocksDB device bytes a byte": rates.written_a_byte,
    }
