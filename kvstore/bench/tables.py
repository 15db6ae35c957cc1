"""The report on a terminal, in at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from kvstore.bench.bounds import COPY_DEPTH, SOCKETS
from kvstore.bench.goals import Goal
from kvstore.bench.machine import NOISY_CORES
from kvstore.bench.measurement import Point
from kvstore.bench.results import Results
from kvstore.bench.run import BenchReport
from kvstore.config import format_bytes

__all__ = ["ReportPage"]

_COLUMNS_MOST = 100
_NOISY_MARK = "~"
_BORDER = "cyan"


@dataclass(frozen=True)
class _Shown:
    """One column of figures: which of `subjects`, the fastest of them, under which heading."""

    heading: str
    subjects: Sequence[str]
    is_bound: bool = False


_SOCKET = _Shown("plain\nsocket", SOCKETS, is_bound=True)
_MEMCPY = _Shown("\nmemcpy", ("memcpy",), is_bound=True)
_STREAMING = _Shown("non-\ntemporal", ("streaming",), is_bound=True)
_TCP = _Shown("\ntcp", ("tcp",))
_SHM = _Shown("\nshm", ("shm",))
_MAPPED = _Shown("\nmapped", ("mapped",))
# Each bound stands before what is compared with it.
_ORDER = {
    "get": (_SOCKET, _TCP, _MEMCPY, _SHM, _STREAMING, _MAPPED),
    "put": (_SOCKET, _TCP, _MEMCPY, _SHM, _MAPPED, _STREAMING),
}
_LATENCY_ORDER = (_SOCKET, _TCP, _SHM, _MAPPED)


@dataclass(frozen=True)
class ReportPage:
    """Everything that a run found: what it depends on, the figures, the goals."""

    report: BenchReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        results = self.report.results
        yield _baseline_table(self.report)
        for verb in ("get", "put"):
            yield _throughput_table(self.report, verb)
        yield _latency_table(self.report)
        yield _goals_table(self.report.goals)
        yield Text(_about_noise(results), "dim")


def _table(*columns: Column, title: str, note: str = "") -> Table:
    heading = Text.assemble((title, "bold"), (f"  {note}" if note else "", "dim"))
    return Table(
        *columns,
        title=heading,
        title_justify="left",
        title_style="",
        box=box.ROUNDED,
        border_style=_BORDER,
        header_style="",
        expand=True,
        width=_COLUMNS_MOST,
    )


def _baseline_table(report: BenchReport) -> Table:
    table = Table(
        Column(style="bold", no_wrap=True),
        Column(ratio=1),
        show_header=False,
        box=box.ROUNDED,
        border_style=_BORDER,
        title=Text("kvstore bench", "bold"),
        title_justify="left",
        width=_COLUMNS_MOST,
    )
    for name, value in report.baseline.items():
        table.add_row(name, value)
    lanes = (lane if endpoint == lane else f"{lane} ({endpoint})" for lane, endpoint in report.lanes.items())
    table.add_row("Lanes", ", ".join(lanes))
    return table


def _throughput_table(report: BenchReport, verb: str) -> Table:
    shown = [one for one in _ORDER[verb] if one.is_bound or one.subjects[0] in report.lanes]
    columns = [Column("\nBlock", no_wrap=True), Column("\nDepth", justify="right")]
    for one in shown:
        columns.append(Column(Text(one.heading, "dim" if one.is_bound else "bold"), justify="right"))
        if not one.is_bound:
            columns.append(Column(Text(f"to {_bound_word(one.subjects[0], verb)}", "dim"), justify="right"))
    note = "GB/s from Python, and the ratio to the bound; depth: blocks in one call"
    table = _table(*columns, title=verb, note=note)
    for block_bytes in report.settings.block_bytes:
        for row, depth in enumerate(report.settings.depths):
            cells: list[RenderableType] = [format_bytes(block_bytes) if row == 0 else "", str(depth)]
            for one in shown:
                cells += _throughput_cells(report.results, one, verb, block_bytes, depth)
            table.add_row(*cells, end_section=depth == report.settings.depths[-1])
    return table


def _bound_word(lane: str, verb: str) -> str:
    if lane == "tcp":
        return "socket"
    return "non-temp." if (lane, verb) == ("mapped", "get") else "memcpy"


def _throughput_cells(results: Results, one: _Shown, verb: str, block_bytes: int, depth: int) -> Iterator[Text]:
    points = [
        Point(subject, verb, block_bytes, depth)
        if subject not in {"memcpy", "streaming"}
        else Point(subject, "copy", block_bytes, COPY_DEPTH)
        for subject in one.subjects
    ]
    figures = [results.figure(point) for point in points if results.has(point)]
    figure = max(figures, key=lambda candidate: candidate.bytes_a_second)
    yield _figure_text(f"{figure.bytes_a_second / 1e9:.2f}", noisy=figure.noisy, style="dim" if one.is_bound else "bold")
    if not one.is_bound:
        yield Text("-" if figure.ratio is None else f"{figure.ratio:.2f}", _ratio_style(figure.ratio))


def _ratio_style(ratio: float | None) -> str:
    if ratio is None:
        return "dim"
    return "green" if ratio >= 0.9 else "yellow" if ratio >= 0.6 else "red"


def _figure_text(value: str, *, noisy: bool, style: str) -> Text:
    return Text(f"{_NOISY_MARK if noisy else ''}{value}", style)


def _latency_table(report: BenchReport) -> Table:
    depth = report.settings.depths[0]
    shown = [one for one in _LATENCY_ORDER if one.is_bound or one.subjects[0] in report.lanes]
    columns = [Column("\nBlock", no_wrap=True)]
    for verb in ("get", "put"):
        for one in shown:
            word = one.heading.replace("plain\n", "").strip()
            columns.append(Column(Text(f"{verb}\n{word}", "dim" if one.is_bound else "bold"), justify="right"))
    blocks = "one block" if depth == 1 else f"{depth} blocks"
    table = _table(*columns, title="latency", note=f"microseconds at p50, {blocks} in one call")
    for block_bytes in report.settings.block_bytes:
        cells: list[RenderableType] = [format_bytes(block_bytes)]
        for verb in ("get", "put"):
            for one in shown:
                points = [Point(subject, verb, block_bytes, depth) for subject in one.subjects]
                figures = [report.results.figure(point) for point in points if report.results.has(point)]
                figure = min(figures, key=lambda candidate: candidate.p50_s)
                style = "dim" if one.is_bound else "bold"
                cells.append(_figure_text(f"{figure.p50_s * 1e6:,.0f}", noisy=figure.noisy, style=style))
        table.add_row(*cells)
    return table


def _goals_table(goals: Sequence[Goal]) -> Table:
    columns = (Column("Goal", ratio=5), Column("Wanted", ratio=3), Column("Measured", ratio=5), Column("", no_wrap=True))
    table = _table(*columns, title="goals")
    for goal in goals:
        measured = Text("\n".join(f"{name}: {value}" for name, value in goal.measured.items()) or "-")
        name = Text.assemble(goal.name, (f"\n{goal.note}" if goal.note else "", "dim"))
        table.add_row(name, goal.wanted, measured, _verdict(goal), end_section=True)
    return table


def _verdict(goal: Goal) -> Text:
    if goal.reached is None:
        return Text("not measured", "dim")
    return Text("reached", "bold green") if goal.reached else Text("missed", "bold red")


def _about_noise(results: Results) -> str:
    rounds = results.rounds
    known = [one.others_cores for one in rounds if one.others_cores is not None]
    count = f"{len(rounds)} rounds in {sum(one.seconds for one in rounds):.0f} s"
    if not known:
        return f"{count}. How much CPU others used cannot be told for a node that this run did not start."
    noisy = sum(one.is_noisy for one in rounds)
    marked = f" {_NOISY_MARK} marks figures that noisy rounds are part of." if noisy else ""
    return (
        f"{count}; in {noisy} of them others used more than {NOISY_CORES} cores (at most {max(known):.2f})."
        f" Figures are medians over rounds, noisy ones left out where three or more are quiet.{marked}"
    )
