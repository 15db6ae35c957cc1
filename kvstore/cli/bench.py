"""`kvstore bench`: every lane of a node beside the limits of this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kvstore.bench import BenchSettings, run_bench
from kvstore.bench.document import report_document
from kvstore.bench.tables import ReportPage
from kvstore.config import parse_bytes
from kvstore.errors import ConfigError, KVStoreError

__all__ = ["app", "bench"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_COLUMNS = 100


@app.command()
def bench(
    url: Annotated[
        str | None, typer.Option(help="Measure this node (kv://HOST:PORT); by default one is started.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first impression in some 20 seconds.")] = False,
    lane: Annotated[list[str] | None, typer.Option(help="tcp, shm or mapped; repeat for several.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="Size of a block, such as 64KiB; repeat for several.")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Blocks in one call; repeat for several.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is measured.")] = None,
    point_ms: Annotated[int | None, typer.Option(help="How long each point is measured in a round.")] = None,
    working_set: Annotated[
        str | None, typer.Option(help="Memory that blocks rotate through; larger than the last-level cache.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw them into this file (.png, .svg, .pdf).")
    ] = None,
) -> None:
    """Measures put, get and match over every lane, beside a plain socket and plain copies measured in the same run."""
    chosen: dict[str, Any] = {
        "lanes": lane,
        "block_bytes": [parse_bytes(one) for one in size] if size else None,
        "depths": depth,
        "rounds": rounds,
        "budget_ms": point_ms,
        "working_set_bytes": parse_bytes(working_set) if working_set else None,
    }
    preset = BenchSettings.quick(url=url) if quick else BenchSettings(url=url)
    settings = dataclasses.replace(preset, **{name: value for name, value in chosen.items() if value not in (None, [])})
    # Not after five minutes of measuring.
    for file in (json_file, plot_file):
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{file} cannot be written: there is no directory {file.parent}")
    if plot_file is not None and importlib.util.find_spec("matplotlib") is None:
        raise KVStoreError("matplotlib is not installed; run: pip install 'kvstore[bench]'")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _COLUMNS
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with _progress_bar(console) as on_progress:
        report = run_bench(settings, on_progress)
    console.print(ReportPage(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report_document(report), indent=1) + "\n", encoding="utf-8")
    if plot_file is not None:
        from kvstore.bench.plot import draw_report

        draw_report(report, plot_file)


def _end(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does: whoever started a process ends it on the way out."""
    raise SystemExit(128 + number)


@contextmanager
def _progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda what, done, steps: progress.update(task, description=what, completed=done, total=steps)
