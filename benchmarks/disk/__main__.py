"""The disk tier beside the bare disk and beside RocksDB: `python -m benchmarks.disk`.

.venv/bin/python -m benchmarks.disk                       (some three minutes, 20 GiB of disk, 6 GiB of memory)
.venv/bin/python -m benchmarks.disk --quick
.venv/bin/python -m benchmarks.disk --recovery            (and a minute or two to fill a disk with 1,000,000 blocks)
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.disk.goals import judge
from benchmarks.disk.report import DiskReport, report_document
from benchmarks.disk.rounds import run_rounds
from benchmarks.disk.settings import DiskSettings
from kvstore import __version__
from kvstore.bench.machine import describe_machine
from kvstore.config import format_bytes
from kvstore.errors import ConfigError, KVStoreError

_COLUMNS = 100
_RECOVERY_BLOCKS = 1_000_000


def main(
    directory: Annotated[
        Path | None, typer.Option(help="On the disk to measure; the system's temporary directory if none.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first impression in half a minute.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, max=100, help="How often everything is measured.")] = None,
    recovery: Annotated[bool, typer.Option("--recovery", help="Also recover blocks of 4 KiB.")] = False,
    recovery_blocks: Annotated[int, typer.Option(min=1, max=100_000_000, help="How many.")] = _RECOVERY_BLOCKS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Measures the disk tier through a client, beside raw io_uring on the same disk in the same run."""
    place = directory or Path(tempfile.gettempdir())
    if json_file is not None and not json_file.parent.is_dir():
        raise ConfigError(f"{json_file} cannot be written: there is no directory {json_file.parent}")
    blocks = recovery_blocks if recovery else 0
    settings = DiskSettings.quick(place, blocks) if quick else DiskSettings(directory=place, recovery_blocks=blocks)
    if rounds is not None:
        settings = dataclasses.replace(settings, rounds=rounds)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _COLUMNS
    with console.status("starting") as status:
        figures = run_rounds(settings, status.update)
    report = DiskReport(settings, _baseline(settings), figures, judge(figures))
    console.print(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report_document(report), indent=1) + "\n", encoding="utf-8")


def _baseline(settings: DiskSettings) -> dict[str, str]:
    return {
        **describe_machine(),
        "Disk": f"{_device(settings.directory)}; a virtual one may have a cache behind it",
        "kvstore": f"{__version__}, {format_bytes(settings.memory_bytes)} of memory and one disk, all else by default",
        "Client": "one Python process, mapped lane",
        "Raw": f"C++, one thread, io_uring, O_DIRECT, {settings.depth} blocks under way, a file written before",
        "Data": f"{format_bytes(settings.data_bytes)} written and read once in each round, for each size",
    }


def _device(directory: Path) -> str:
    device = os.stat(directory).st_dev
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            kind, source = fields[fields.index("-") + 1 : fields.index("-") + 3]
            return f"{source} ({kind})"
    return "unknown"


if __name__ == "__main__":
    try:
        typer.run(main)
    except (KVStoreError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
