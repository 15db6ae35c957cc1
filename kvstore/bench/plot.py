"""The report as a picture. Needs matplotlib, from the extra `bench`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from kvstore.bench.bounds import COPY_DEPTH, SOCKETS
from kvstore.bench.measurement import Point
from kvstore.bench.results import Results
from kvstore.bench.run import BenchReport
from kvstore.config import KIB, format_bytes

__all__ = ["draw_report"]

_DEPTH: Final = 8
_SMALL_BYTES_MAX: Final = 256 * KIB
_INK: Final = "#1f2933"
_FAINT: Final = "#7b8794"
_GRID: Final = "#e4e7eb"
_DASHES: Final = (0, (4, 2.5))
# Of the width of a panel: room for the names at the ends of the lines.
_LABEL_SHARE: Final = 0.42


@dataclass(frozen=True)
class _Line:
    """One curve: the fastest of `subjects` at each size."""

    label: str
    subjects: Sequence[str]
    colour: str
    is_bound: bool


# A bound has the colour of the lane that is compared with it.
_TCP_COLOUR, _SHM_COLOUR, _MAPPED_COLOUR = "#2563eb", "#d97706", "#059669"
_LINES: Final[Mapping[str, _Line]] = MappingProxyType(
    {
        "tcp": _Line("tcp", ("tcp",), _TCP_COLOUR, is_bound=False),
        "shm": _Line("shm", ("shm",), _SHM_COLOUR, is_bound=False),
        "mapped": _Line("mapped", ("mapped",), _MAPPED_COLOUR, is_bound=False),
        "socket": _Line("plain socket", tuple(SOCKETS), _TCP_COLOUR, is_bound=True),
        "memcpy": _Line("memcpy", ("memcpy",), _SHM_COLOUR, is_bound=True),
        "streaming": _Line("non-temporal copy", ("streaming",), _MAPPED_COLOUR, is_bound=True),
    }
)
_BARS: Final = ("socket", "tcp", "shm", "mapped")


def draw_report(report: BenchReport, file: Path) -> None:
    """Writes the picture in the format that the name of `file` ends with.

    Above, throughput over block size for get and put at depth 8, or the depth nearest to it; bounds are dashed. Below,
    the latency of one small block. Raises `ValueError` for a format that matplotlib does not know.
    """
    depth = min(report.settings.depths, key=lambda measured: (abs(measured - _DEPTH), measured))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)
    canvas = Canvas(figsize=(12, 8.4), dpi=160, layout=layout, facecolor="white")
    axes = canvas.subplots(2, 2, height_ratios=(1.75, 1), sharey="row")
    for column, verb in enumerate(("get", "put")):
        _draw_throughput(axes[0][column], report, verb, depth)
        _draw_latency(axes[1][column], report, verb)
    axes[0][0].set_ylabel("GB/s", color=_INK)
    axes[1][0].set_ylabel("µs", color=_INK)
    canvas.suptitle(_title(report), x=0.012, ha="left", fontsize=11, color=_FAINT)
    canvas.savefig(file)


def _title(report: BenchReport) -> str:
    baseline = report.baseline
    return (
        f"kvstore {baseline['kvstore']}   ·   UCX {baseline['UCX']}   ·   {baseline['CPU']}   ·   {baseline['Kernel']}"
    )


def _style(axes: Any, title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=_INK, pad=26)
    axes.annotate(
        note, (0, 1), xytext=(0, 10), xycoords="axes fraction", textcoords="offset points", fontsize=10, color=_FAINT
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=0, labelleft=True)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_throughput(axes: Any, report: BenchReport, verb: str, depth: int) -> None:
    _style(axes, verb, f"{depth} blocks in one call from Python; dashed: the machine without the store")
    sizes = sorted(report.settings.block_bytes)
    ends = []
    for name, line in _LINES.items():
        if not line.is_bound and name not in report.lanes:
            continue
        rates = [_best_rate(report.results, line, verb, size, depth) / 1e9 for size in sizes]
        look = {"linestyle": _DASHES, "linewidth": 1.4, "alpha": 0.75} if line.is_bound else {"linewidth": 2.4}
        axes.plot(sizes, rates, color=line.colour, marker=None if line.is_bound else "o", markersize=5.5, **look)
        ends.append((rates[-1], line))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, _short_names(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(sizes[0] / 2**0.4, sizes[-1] * 2 ** (_LABEL_SHARE * (math.log2(sizes[-1] / sizes[0]) + 1)))
    axes.set_ylim(bottom=0)
    for y, line in _spread(ends, least_gap=axes.get_ylim()[1] / 22):
        axes.annotate(
            line.label,
            (sizes[-1], y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=line.colour,
            fontweight="normal" if line.is_bound else "bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )


def _short_names(sizes: Sequence[int]) -> list[str]:
    """Sizes with their unit where it changes only: neighbours would touch otherwise."""
    named = [format_bytes(size).split() for size in sizes]
    units = ["", *(unit for _, unit in named)]
    return [
        number if unit == before else f"{number} {unit}" for (number, unit), before in zip(named, units, strict=False)
    ]


def _best_rate(results: Results, line: _Line, verb: str, block_bytes: int, depth: int) -> float:
    return max(
        results.figure(point).bytes_a_second for point in _points(line, verb, block_bytes, depth) if results.has(point)
    )


def _points(line: _Line, verb: str, block_bytes: int, depth: int) -> Iterator[Point]:
    for subject in line.subjects:
        is_copy = subject in {"memcpy", "streaming"}
        yield Point(subject, "copy" if is_copy else verb, block_bytes, COPY_DEPTH if is_copy else depth)


def _spread(ends: Sequence[tuple[float, _Line]], least_gap: float) -> list[tuple[float, _Line]]:
    """Heights for labels: as near to the ends of their lines as they can be without touching each other."""
    placed: list[tuple[float, _Line]] = []
    for y, line in sorted(ends, key=lambda end: end[0]):
        placed.append((max(y, placed[-1][0] + least_gap) if placed else y, line))
    return placed


def _draw_latency(axes: Any, report: BenchReport, verb: str) -> None:
    depth = report.settings.depths[0]
    sizes = [size for size in sorted(report.settings.block_bytes) if size <= _SMALL_BYTES_MAX]
    sizes = sizes or [min(report.settings.block_bytes)]
    blocks = "one block" if depth == 1 else f"{depth} blocks"
    _style(axes, f"{verb}, latency", f"{blocks} in a call, p50")
    shown = [name for name in _BARS if name in report.lanes or _LINES[name].is_bound]
    width = 0.8 / len(shown)
    for number, name in enumerate(shown):
        line = _LINES[name]
        micros = [size * depth / _best_rate(report.results, line, verb, size, depth) * 1e6 for size in sizes]
        places = [place + (number - (len(shown) - 1) / 2) * width for place in range(len(sizes))]
        look = (
            {"facecolor": "white", "edgecolor": line.colour, "hatch": "////"}
            if line.is_bound
            else {"color": line.colour}
        )
        bars = axes.bar(places, micros, width * 0.86, linewidth=1, label=line.label, **look)
        axes.bar_label(bars, [f"{value:.0f}" for value in micros], padding=2, fontsize=8.5, color=_INK)
    axes.set_xticks(range(len(sizes)), [format_bytes(size) for size in sizes])
    axes.margins(y=0.12)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.01, 1.0),
        ncols=len(shown),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        handlelength=1.3,
        columnspacing=1.2,
    )
