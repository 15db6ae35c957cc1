"""Judges the node's eviction policies by a trace.

python -m benchmarks.replay TRACE                        (seconds)
python -m benchmarks.replay TRACE --plot docs/replay.png
python -m benchmarks.replay --synthetic                  (traces of other character, made from a seed; a minute)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.replay.measure import replay_all
from benchmarks.replay.synthetic import SYNTHETIC, synthetic_trace
from benchmarks.replay.table import policy_table, summary_table
from benchmarks.replay.trace import read_trace


def main(
    trace: Annotated[Path | None, typer.Argument(help="One JSON object a line with hash_ids.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Writes a picture here.")] = None,
    synthetic: Annotated[bool, typer.Option(help="Also the synthetic traces.")] = False,
    as_engines: Annotated[bool, typer.Option(help="What a request reads and writes are two requests.")] = False,
    seed: Annotated[int, typer.Option(help="Of the synthetic traces.")] = 1,
) -> None:
    """Prints a table of usable hit ratios."""
    if trace is None and not synthetic:
        raise typer.BadParameter("name a trace, or ask for --synthetic")
    if trace is None and plot is not None:
        raise typer.BadParameter("a picture is of one trace: name it")
    console = Console(width=140)
    reports = []
    if trace is not None:
        reports.append(replay_all(trace.stem, read_trace(trace), as_engines=as_engines))
        console.print(policy_table(reports[0]))
    if trace is not None and plot is not None:
        from benchmarks.replay.plot import draw_report  # matplotlib only where a picture is wanted

        draw_report(reports[0], plot)
    if synthetic:
        for name in SYNTHETIC:
            reports.append(replay_all(name, synthetic_trace(name, seed=seed), as_engines=as_engines))
            console.print(policy_table(reports[-1]))
        console.print(summary_table(reports))


if __name__ == "__main__":
    typer.run(main)
