"""What is left of a burst that is larger than memory, when the node behind it is stopped, or killed.

.venv/bin/python -m benchmarks.survival                   (about half a minute, and 1 GiB of disk)
.venv/bin/python -m benchmarks.survival --directory /mnt/nvme

A node with 256 MiB of memory and a disk, all else by default, gets 600 blocks of 1 MiB as fast as they go, as plain
puts (not durable ones). Then it ends in one of three ways and starts again, and every block is read and compared byte
for byte. The exit status is 1 if a block has wrong bytes, or if one is lost that must not be.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from kvstore import Status, connect
from kvstore.bench.node import ServedNode
from kvstore.client import Client
from kvstore.config import MIB, parse_bytes

BLOCK_BYTES: Final = MIB
BLOCKS_A_CALL: Final = 8
FLUSH_TIMEOUT_MS: Final = 60_000
# As published, or found in probes of released versions on one small machine; versions and settings stand beside.
OTHERS: Final = (
    ("Mooncake Store 0.3.13, SSD, default buckets, 256 MiB", "18 of 600 on disk", "partly filled buckets wait"),
    ("the same, 16 MiB buckets, 2 s heartbeat", "532 of 600", "524 after a restart"),
    ("the same, written to SSD on eviction", "256 after a restart", "144 of 600 puts rejected"),
    ("memcached 1.6.18 extstore, 256 MB, 1,000 × 1 MiB", "501 of 1,000", "499 evicted before they reached flash"),
)

Blocks = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """What became of one burst. Blocks are counted; `readable` ones had their exact bytes, `wrong` ones had not."""

    ending: str
    acknowledged: int
    busy: int
    otherwise: int
    readable: int
    wrong: int
    burst_s: float
    ending_s: float
    restart_s: float

    def is_whole(self, blocks: int) -> bool:
        return self.acknowledged == self.readable == blocks


@dataclass(frozen=True)
class Ending:
    """One way to end a node: what is done, and whether every acknowledged block must be there afterwards."""

    name: str
    run: Callable[[ServedNode, Client], None]
    loses_nothing: bool


def _stop(node: ServedNode, client: Client) -> None:
    node.stop()


def _flush_and_kill(node: ServedNode, client: Client) -> None:
    if not client.flush(timeout_ms=FLUSH_TIMEOUT_MS):
        raise typer.BadParameter("the node could not flush; is the directory on a disk that works?")
    node.kill()


def _kill(node: ServedNode, client: Client) -> None:
    node.kill()


ENDINGS: Final = (
    Ending("stopped and started", _stop, loses_nothing=True),
    Ending("flushed, kill -9, started", _flush_and_kill, loses_nothing=True),
    Ending("kill -9 at once, started", _kill, loses_nothing=False),
)


def survive(ending: Ending, blocks: Blocks, keys: Blocks, memory: str, directory: Path) -> Outcome:
    """One burst into a new node on `directory`, its end, and what is there afterwards."""
    flags = ("--memory", memory, "--disk", str(directory), "--disk-size", str(2 * blocks.nbytes), "--log-level=warning")
    with ServedNode(*flags) as node:
        with connect(node.url) as client:
            start_s = time.monotonic()
            causes = [
                client.put(keys[first : first + BLOCKS_A_CALL], blocks[first : first + BLOCKS_A_CALL]).cause
                for first in range(0, len(blocks), BLOCKS_A_CALL)
            ]
            end_s = time.monotonic()
            ending.run(node, client)
            ended_s = time.monotonic()
        node.start()
        restarted_s = time.monotonic()
        with connect(node.url) as client:
            readable, wrong = _read_all(client, blocks, keys)
    put = np.concatenate(causes)
    acknowledged, busy = (int((put == status).sum()) for status in (Status.OK, Status.BUSY))
    return Outcome(
        ending=ending.name,
        acknowledged=acknowledged,
        busy=busy,
        otherwise=len(put) - acknowledged - busy,
        readable=readable,
        wrong=wrong,
        burst_s=end_s - start_s,
        ending_s=ended_s - end_s,
        restart_s=restarted_s - ended_s,
    )


def _read_all(client: Client, blocks: Blocks, keys: Blocks) -> tuple[int, int]:
    readable = wrong = 0
    room = np.empty((BLOCKS_A_CALL, blocks.shape[1]), np.uint8)
    for first in range(0, len(keys), BLOCKS_A_CALL):
        some = keys[first : first + BLOCKS_A_CALL]
        room[:] = 0
        for block, found, ok in zip(blocks[first:], room, client.get(some, room[: len(some)]).ok, strict=False):
            same = bool(ok) and np.array_equal(block, found)
            readable += same
            wrong += bool(ok) and not same
    return readable, wrong


def show(console: Console, outcomes: Sequence[Outcome], blocks: int, memory: str) -> None:
    """One table of ours, one of others."""
    columns = ("acknowledged", "BUSY", "other", "readable after", "wrong bytes", "burst", "end", "restart")
    right = (Column(name, justify="right", no_wrap=True) for name in columns)
    title = f"{blocks} blocks of 1 MiB into {memory} of memory and a disk"
    table = Table(
        Column("the node is", style="bold", no_wrap=True), *right, title=title, box=box.ROUNDED, border_style="cyan"
    )
    for one in outcomes:
        style = "green" if one.is_whole(blocks) else "red" if one.wrong else "yellow"
        table.add_row(
            one.ending,
            f"{one.acknowledged}",
            f"{one.busy}",
            f"{one.otherwise}",
            f"[{style}]{one.readable} of {blocks}[/]",
            f"{one.wrong}",
            *(f"{seconds:.2f} s" for seconds in (one.burst_s, one.ending_s, one.restart_s)),
        )
    console.print(table)
    others = Table("store", "left", "why", title="the same burst elsewhere", box=box.ROUNDED, border_style="dim")
    for row in OTHERS:
        others.add_row(*row)
    console.print(others)
    console.print(
        "Ours are measured in this run. Those of others were measured once with their released versions on a machine of"
        " two cores, with the settings named; they are no part of this run.",
        style="dim",
    )


def main(
    blocks: Annotated[int, typer.Option(min=1, max=100_000, help="Blocks of 1 MiB in the burst.")] = 600,
    memory: Annotated[str, typer.Option(help="Memory of the node.")] = "256MiB",
    directory: Annotated[Path | None, typer.Option(help="Where the disks are made; a temporary one if none.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Counts the blocks that survive the end of a node."""
    logging.getLogger("kvstore.client").setLevel(logging.ERROR)  # a node that is killed is no surprise here
    random = np.random.default_rng(seed=3)
    contents = random.integers(0, 256, (blocks, BLOCK_BYTES), dtype=np.uint8)
    outcomes = []
    for ending in ENDINGS:
        keys = random.integers(0, 256, (blocks, 32), dtype=np.uint8)
        with tempfile.TemporaryDirectory(prefix="kvstore-survival-", dir=directory) as folder:
            outcomes.append(survive(ending, contents, keys, memory, Path(folder) / "disk"))
    show(Console(highlight=False, width=None if Console().is_terminal else 120), outcomes, blocks, memory)
    if json_file is not None:
        found = {"blocks": blocks, "memory_bytes": parse_bytes(memory), "outcomes": [asdict(one) for one in outcomes]}
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    kept = all(
        one.is_whole(blocks) for one, ending in zip(outcomes, ENDINGS, strict=True) if ending.loses_nothing
    ) and not any(one.wrong for one in outcomes)
    raise typer.Exit(0 if kept else 1)


if __name__ == "__main__":
    typer.run(main)
