"""The figures on a terminal, and as one JSON document."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from benchmarks.disk.figures import Figures
from benchmarks.disk.hits import HitRates
from benchmarks.disk.rocks import ROCKS_OPTIONS
from benchmarks.disk.settings import DiskSettings
from kvstore.bench.goals import Goal
from kvstore.bench.machine import NOISY_CORES
from kvstore.bench.tables import framed_table, goals_table
from kvstore.config import format_bytes

__all__ = ["DiskReport", "report_document"]

# (name of the row, figure, what it is compared with)
_RATES: Final = (
    ("raw writes, depth {depth}", "raw write", ""),
    ("write-back: put until flush() returns", "write-back", "raw write"),
    ("raw reads, depth {depth}", "raw read", ""),
    ("cold reads, {depth} calls under way", "cold reads", "raw read"),
    ("cold reads, calls of {depth} blocks", "cold reads in calls", "raw read"),
    ("RocksDB put", "RocksDB put", "write-back"),
)
_LATENCIES: Final = (
    ("raw read", "raw read alone"),
    ("cold read", "cold read"),
    ("cold read beside a writer", "cold read beside writer"),
    ("hit in memory", "hit"),
)
_ROCKS_LATENCIES: Final = (
    ("RocksDB get, in the page cache", "RocksDB get, cached"),
    ("RocksDB get, from the device", "RocksDB get, uncached"),
)
_COLUMN: Final = 11


@dataclass(frozen=True)
class DiskReport:
    """Everything that a run found."""

    settings: DiskSettings
    baseline: dict[str, str]
    figures: Figures
    goals: Sequence[Goal]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._baseline()
        yield self._rates()
        yield self._latencies()
        if self.figures.hits:
            yield self._hits()
        yield goals_table(self.goals)
        yield Text(_about_noise(self.figures), "dim")

    def _baseline(self) -> Table:
        table = framed_table(
            Column(style="bold", width=18),
            Column(ratio=1),
            title="benchmarks.disk",
            note="what the figures depend on",
            show_header=False,
        )
        for name, value in self.baseline.items():
            table.add_row("", name, value)
        return table

    def _size_columns(self, *names: str) -> Iterator[Column]:
        for size in self.settings.block_bytes:
            for index, name in enumerate(names):
                heading = f"{format_bytes(size) if index == 0 else ''}\n{name}"
                yield Column(heading, justify="right", width=_COLUMN, no_wrap=True)

    def _rates(self) -> Table:
        columns = self._size_columns("GB/s", "ratio")
        table = framed_table(
            Column(ratio=1), *columns, title="throughput", note="medians over rounds, ratios within one"
        )
        for name, figure, bound in _RATES:
            cells: list[str] = []
            for size in self.settings.block_bytes:
                if not self.figures.has(size, figure):
                    cells += ["", ""]
                    continue
                cells.append(f"{self.figures.median(size, figure) / 1e9:.2f}")
                cells.append(self._ratio(size, figure, bound))
            style = "bold" if bound and not figure.startswith("RocksDB") else ""
            table.add_row("", Text(name.format(depth=self.settings.depth), style), *cells)
        return table

    def _ratio(self, size: int, figure: str, bound: str) -> str:
        if not bound:
            return ""
        if figure.startswith("RocksDB"):  # in fewer rounds
            return f"{self.figures.median(size, figure) / self.figures.median(size, bound):.2f}"
        return f"{self.figures.ratio(size, figure, bound):.2f}"

    def _latencies(self) -> Table:
        columns = self._size_columns("p50, ms", "p99, ms")
        table = framed_table(Column(ratio=1), *columns, title="one block at a time", note="the median of each round")
        for name, figure in _LATENCIES:
            cells = [
                f"{1e3 * self.figures.median(size, f'{figure}, {percentile}'):.3f}"
                for size in self.settings.block_bytes
                for percentile in ("p50", "p99")
            ]
            table.add_row("", Text(name, "" if figure.startswith("raw") else "bold"), *cells)
        for name, figure in _ROCKS_LATENCIES:
            cells = []
            for size in self.settings.block_bytes:
                has = self.figures.has(size, figure)
                cells += [f"{1e3 * size / self.figures.median(size, figure):.3f}" if has else "", ""]
            table.add_row("", name, *cells)
        return table

    def _hits(self) -> Table:
        headings = ("idle", "write-back", "raw writes", "writer alone", "writer, write-back")
        columns = (Column(heading, justify="right", width=max(len(heading) + 2, 14)) for heading in headings)
        table = framed_table(Column(ratio=1), *columns, title="hits in memory", note="calls of 8 blocks of 2 MiB, GB/s")
        rates = (
            statistics.median(getattr(one, field.name) for one in self.figures.hits)
            for field in dataclasses.fields(HitRates)
        )
        table.add_row("", Text("hits", "bold"), *(f"{rate / 1e9:.2f}" for rate in rates))
        return table


def _about_noise(figures: Figures) -> str:
    cores = [one.cores for one in figures.noise]
    disk = [one.disk_bytes_a_second for one in figures.noise if one.disk_bytes_a_second is not None]
    noisy = sum(one > NOISY_CORES for one in cores)
    text = (
        f"{len(cores)} rounds; others used {statistics.median(cores):.2f} cores in the median round, more than"
        f" {NOISY_CORES} in {noisy} of them, {max(cores):.2f} at most."
    )
    if disk:
        text += (
            f" Others, and the file system itself, moved {statistics.median(disk) / 1e6:.0f} MB/s to or from the disk."
        )
    return f"{text}\nRocksDB: {ROCKS_OPTIONS}."


def report_document(report: DiskReport) -> dict[str, Any]:
    """What `--json` writes: every figure of every round. Rates are in bytes a second, latencies in seconds."""
    figures = report.figures
    return {
        "settings": {**dataclasses.asdict(report.settings), "directory": str(report.settings.directory)},
        "baseline": report.baseline,
        "rounds": [
            {"block_bytes": size, "name": name, "figures": values} for (size, name), values in figures.by_name.items()
        ],
        "hits": [dataclasses.asdict(one) for one in figures.hits],
        "noise": [dataclasses.asdict(one) for one in figures.noise],
        "recovery": None if figures.recovery is None else dataclasses.asdict(figures.recovery),
        "goals": [dataclasses.asdict(goal) for goal in report.goals],
    }
