"""The report on a terminal, in at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from kvstore.bench.bounds import SOCKETS
from kvstore.bench.goals import Goal
from kvstore.bench.machine import NOISY_CORES
from kvstore.bench.measurement import Point
from kvstore.bench.results import Figure, Results, bounds_of
from kvstore.bench.run import BenchReport
from kvstore.config import format_bytes

__all__ = ["ReportPage", "framed_table", "goals_table"]

_COLUMNS: Final = 100
_NOISY_MARK: Final = "~"
_NOT_MEASURED: Final = "not measured"
_FRAME: Final = box.Box("╭──╮\n│  │\n├──┤\n│  │\n├──┤\n├──┤\n│  │\n╰──╯\n")
_BOUND_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(SOCKETS, "socket"),
    "memcpy": "memcpy",
    "streaming": "nt copy",
}
_GOOD_RATIO: Final = 0.9
_FAIR_RATIO: Final = 0.6
# Widths of columns. A bound keeps its distance from what is on its left.
_MARGIN: Final = 1
_BLOCK: Final = 8
_DEPTH: Final = 5
_BOUND: Final = 8
_LANE: Final = 7
_RATIO: Final = 8


@dataclass(frozen=True)
class ReportPage:
    """Everything that a run found: what it depends on, the figures, the goals."""

    report: BenchReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _baseline_table(self.report)
        for verb in ("get", "put"):
            yield _throughput_table(self.report, verb)
        yield _latency_table(self.report)
        yield goals_table(self.report.goals)
        yield Text(_about_noise(self.report.results), "dim")


def framed_table(*columns: Column, title: str, note: str = "", show_header: bool = True) -> Table:
    """An empty table in the frame of all reports, 100 columns wide, with a margin that takes the first cell."""
    return Table(
        Column(width=_MARGIN),
        *columns,
        Column(width=_MARGIN),
        title=Text.assemble("\n", (title, "bold cyan"), (f"  {note}" if note else "", "dim")),
        title_justify="left",
        title_style="",
        box=_FRAME,
        border_style="cyan",
        header_style="",
        padding=0,
        show_header=show_header,
        width=_COLUMNS,
    )


def _right(heading: str, width: int, style: str = "") -> Column:
    return Column(Text(heading, style), justify="right", width=width, no_wrap=True)


def _baseline_table(report: BenchReport) -> Table:
    columns = (Column(style="bold", width=18), Column(ratio=1))
    table = framed_table(*columns, title="kvstore bench", note="what the figures depend on", show_header=False)
    lanes = (lane if endpoint == lane else f"{lane} ({endpoint})" for lane, endpoint in report.lanes.items())
    for name, value in {**report.baseline, "Lanes": ", ".join(lanes)}.items():
        table.add_row("", name, value)
    return table


def _throughput_table(report: BenchReport, verb: str) -> Table:
    columns = [Column("Block", width=_BLOCK), _right("Depth", _DEPTH)]
    shown: set[str] = set()
    for lane in report.lanes:
        bound = _bound_name(lane, verb)
        if bound not in shown:
            columns.append(_right(bound, _BOUND, "dim"))
            shown.add(bound)
        columns.append(_right(lane, _LANE, "bold"))
        columns.append(_right(f"/{bound}", _RATIO, "dim"))
    note = "GB/s from Python, beside each bound and as a ratio to it; depth is blocks in one call"
    table = framed_table(*columns, Column(ratio=1), title=verb, note=note)
    for block_bytes in report.settings.block_bytes:
        for depth in report.settings.depths:
            is_first, is_last = depth == report.settings.depths[0], depth == report.settings.depths[-1]
            name = _block_name(report.results, block_bytes) if is_first else ""
            cells = _throughput_cells(report, verb, block_bytes, depth)
            table.add_row("", name, str(depth), *cells, end_section=is_last)
    return table


def _bound_name(lane: str, verb: str) -> str:
    return _BOUND_NAMES[bounds_of(Point(lane, verb, 0, 0))[0].subject]


def _throughput_cells(report: BenchReport, verb: str, block_bytes: int, depth: int) -> Iterator[Text]:
    shown: set[str] = set()
    for lane in report.lanes:
        point = Point(lane, verb, block_bytes, depth)
        figure, bound = report.results.figure(point), _fastest(report.results, bounds_of(point))
        if (name := _bound_name(lane, verb)) not in shown:
            yield Text(f"{bound.bytes_a_second / 1e9:.2f}", "dim")
            shown.add(name)
        yield Text(f"{figure.bytes_a_second / 1e9:.2f}", "bold")
        ratio = figure.ratio or 0.0
        yield Text(f"{ratio:.2f}", "green" if ratio >= _GOOD_RATIO else "yellow" if ratio >= _FAIR_RATIO else "red")


def _fastest(results: Results, points: Iterable[Point]) -> Figure:
    """Of those that were measured."""
    figures = [results.figure(point) for point in points if results.has(point)]
    return max(figures, key=lambda figure: figure.bytes_a_second)


def _block_name(results: Results, block_bytes: int) -> Text:
    point = next(point for point in results.points if point.block_bytes == block_bytes and point.subject == "memcpy")
    mark = _NOISY_MARK if results.figure(point).noisy else ""
    return Text.assemble((mark, "yellow"), (format_bytes(block_bytes), "bold"))


def _latency_table(report: BenchReport) -> Table:
    depth = report.settings.depths[0]
    columns = [Column("\nBlock", width=_BLOCK), Column(width=_DEPTH)]
    for verb in ("get", "put"):
        heading = Text.assemble((verb, "bold"), ("\nsocket", "dim"))
        columns.append(Column(heading, justify="right", width=_BOUND))
        columns += [_right(f"\n{lane}", _LANE, "bold") for lane in report.lanes]
    blocks = "one block" if depth == 1 else f"{depth} blocks"
    table = framed_table(*columns, Column(ratio=1), title="latency", note=f"microseconds of a call for {blocks}, p50")
    for block_bytes in report.settings.block_bytes:
        cells = [Text(), _block_name(report.results, block_bytes), Text()]
        for verb in ("get", "put"):
            sockets = [Point(socket, verb, block_bytes, depth) for socket in SOCKETS]
            cells.append(Text(_microseconds(_fastest(report.results, sockets)), "dim"))
            figures = (report.results.figure(Point(lane, verb, block_bytes, depth)) for lane in report.lanes)
            cells += [Text(_microseconds(figure), "bold") for figure in figures]
        table.add_row(*cells)
    return table


def _microseconds(figure: Figure) -> str:
    microseconds = figure.p50_s * 1e6
    return f"{microseconds:,.1f}" if microseconds < 100 else f"{microseconds:,.0f}"


def goals_table(goals: Sequence[Goal]) -> Table:
    """Each goal, what was measured, and the verdict."""
    columns = (Column("Goal", width=32), Column(width=2), Column("Measured", ratio=1), _right("", len(_NOT_MEASURED)))
    table = framed_table(*columns, title="goals")
    for goal in goals:
        wanted = Text.assemble((goal.name, "bold"), (f"\n{goal.wanted}", "dim"))
        lines = [Text(goal.measured)] if goal.measured else []
        lines += [Text(goal.note, "dim")] if goal.note else []
        table.add_row("", wanted, "", Text("\n").join(lines), _verdict(goal), end_section=True)
    return table


def _verdict(goal: Goal) -> Text:
    if goal.reached is None:
        return Text(_NOT_MEASURED, "dim")
    return Text("reached", "bold green") if goal.reached else Text("missed", "bold red")


def _about_noise(results: Results) -> str:
    rounds = results.rounds
    known = [one.others_cores for one in rounds if one.others_cores is not None]
    count = f"{len(rounds)} rounds in {sum(one.seconds for one in rounds):.0f} s"
    if not known:
        return f"{count}. How much CPU others used cannot be told for a node that this run did not start."
    noisy = sum(one.is_noisy for one in rounds)
    marked = f" {_NOISY_MARK} marks sizes whose figures include noisy rounds." if noisy else ""
    return (
        f"{count}; in {noisy} of them others used more than {NOISY_CORES} cores (at most {max(known):.2f})."
        f" Figures are medians over rounds, noisy ones left out where three or more are quiet.{marked}"
    )
