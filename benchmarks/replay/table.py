"""Reports as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Column, Table

from benchmarks.replay.measure import BASELINE, DEFAULT, Report

__all__ = ["policy_table", "summary_table"]


def policy_table(report: Report) -> Table:
    """Policy by size: usable hit ratio, and in brackets the share of the gap from LRU to the optimum that it closes."""
    percents = list(report.bounds)
    table = Table(
        Column("policy"),
        *(Column(f"{percent} %", justify="right") for percent in percents),
        Column("ns a block", justify="right"),
        Column("bytes a block", justify="right"),
        box=box.SIMPLE,
        title=(
            f"{report.name}: usable hit ratio by cache size, in percent of {report.unique_blocks:,} unique blocks\n"
            f"({report.requests:,} requests, {report.references:,} blocks asked for; in brackets: how much of the gap "
            f"from {BASELINE} to Belady's optimum is closed)"
        ),
        title_justify="left",
        title_style="",
    )
    for policy, figures in report.figures.items():
        hits = [_cell(figures[percent].hit_ratio, report.closed(policy, percent)) for percent in percents]
        table.add_row(
            f"{policy} (default)" if policy == DEFAULT else policy,
            *hits,
            _range([figure.policy_ns for figure in figures.values()]),
            _range([figure.policy_bytes for figure in figures.values()]),
        )
    table.add_section()
    table.add_row("Belady's optimum", *(_cell(report.bounds[percent], None) for percent in percents), "", "")
    return table


def summary_table(reports: Sequence[Report]) -> Table:
    """The default policy on many traces: share of the gap closed at each size, and its worst difference from LRU."""
    percents = list(reports[0].bounds)
    table = Table(
        Column("trace"),
        *(Column(f"{percent} %", justify="right") for percent in percents),
        Column("worst against LRU", justify="right"),
        box=box.SIMPLE,
        title=f"{DEFAULT}: usable hit ratio, and share of the gap from {BASELINE} to Belady's optimum that is closed",
        title_justify="left",
        title_style="",
    )
    for report in reports:
        figures = report.figures[DEFAULT]
        hits = [_cell(figures[percent].hit_ratio, report.closed(DEFAULT, percent)) for percent in percents]
        table.add_row(report.name, *hits, f"{100 * report.worst(DEFAULT):+.2f} points")
    return table


def _cell(hit_ratio: float, closed: float | None) -> str:
    share = "" if closed is None else f"({100 * closed:+.0f} %)"
    return f"{hit_ratio:.3f} {share:>8}"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f}-{max(values):.0f}"
