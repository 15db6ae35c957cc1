"""A report as a picture. Needs matplotlib, from the extra `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.replay.measure import BASELINE, DEFAULT, Report

__all__ = ["draw_report"]

_INK: Final = "#1f2933"
_FAINT: Final = "#7b8794"
_GRID: Final = "#e4e7eb"
_DEFAULT_COLOUR: Final = "#2563eb"
_COLOURS: Final[Mapping[str, str]] = {
    "plain LRU": "#b8c0c8",
    BASELINE: _INK,
    "S3-FIFO": "#d97706",
    "LFU-DA": "#059669",
    DEFAULT: _DEFAULT_COLOUR,
}
# Where the optimum is nearer to LRU than this, a share of the gap says nothing.
_GAP_MIN: Final = 0.02
_GOAL: Final = 0.3
# Labels stand at the left end of a line and keep this distance, as a share of the axis.
_LABEL_DISTANCE: Final = 0.045


def draw_report(report: Report, file: Path) -> None:
    """Writes the picture in the format that the name of `file` ends with.

    Left, the usable hit ratio over the size of the cache; right, the share of the gap from LRU to Belady's optimum, at
    the sizes where there is a gap worth the name.
    Raises `ValueError` for a format that matplotlib does not know.
    """
    canvas = Canvas(figsize=(12, 5.2), dpi=160, layout="constrained", facecolor="white")
    hits, gaps = canvas.subplots(1, 2, width_ratios=(1.45, 1))
    _draw_hits(hits, report)
    _draw_gaps(gaps, report)
    canvas.suptitle(
        f"{report.name}: {report.requests:,} requests, {report.references:,} blocks asked for, "
        f"{report.unique_blocks:,} of them different",
        x=0.012,
        ha="left",
        fontsize=10,
        color=_FAINT,
    )
    canvas.savefig(file)


def _draw_hits(axis: Any, report: Report) -> None:
    percents = list(report.bounds)
    ends: dict[str, tuple[float, str]] = {}
    for policy, figures in report.figures.items():
        ratios = [figures[percent].hit_ratio for percent in percents]
        weight = 2.6 if policy == DEFAULT else 1.5
        axis.plot(percents, ratios, color=_COLOURS[policy], linewidth=weight, marker="o", markersize=weight + 1.5)
        ends[f"{policy} (default)" if policy == DEFAULT else policy] = (ratios[0], _COLOURS[policy])
    bounds = [report.bounds[percent] for percent in percents]
    axis.plot(percents, bounds, color=_FAINT, linewidth=1.5, linestyle=(0, (4, 2.5)))
    ends["Belady's optimum"] = (bounds[0], _FAINT)
    top = max(bounds) * 1.08
    _label_ends(axis, ends, at=percents[0] * 0.88, top=top)
    axis.set_xscale("log")
    axis.set_xlim(percents[0] * 0.3, percents[-1] * 1.15)
    axis.set_ylim(0, top)
    axis.xaxis.set_major_locator(FixedLocator(percents))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axis.set_xlabel("size of the cache, in percent of the different blocks", color=_INK)
    _finish(axis, "Usable hit ratio")


def _label_ends(axis: Any, ends: Mapping[str, tuple[float, str]], *, at: float, top: float) -> None:
    lowest = 0.0
    for label, (height, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        lowest = max(height, lowest)
        is_default = label.endswith("(default)")
        axis.text(
            at,
            lowest,
            label,
            color=colour if colour != _COLOURS["plain LRU"] else _FAINT,
            ha="right",
            va="center",
            fontsize=9.5,
            fontweight="bold" if is_default else "normal",
        )
        lowest += _LABEL_DISTANCE * top


def _draw_gaps(axis: Any, report: Report) -> None:
    gaps = {percent: bound - report.figures[BASELINE][percent].hit_ratio for percent, bound in report.bounds.items()}
    percents = [percent for percent, gap in gaps.items() if gap > _GAP_MIN]
    policies = [policy for policy in report.figures if policy not in (BASELINE, "plain LRU")]
    width = 0.8 / len(policies)
    floor = -0.42
    for number, policy in enumerate(policies):
        for group, percent in enumerate(percents):
            closed = report.closed(policy, percent) or 0.0
            place = group + (number - (len(policies) - 1) / 2) * width
            axis.bar(place, max(closed, floor), width * 0.92, color=_COLOURS[policy])
            edge = max(closed, floor)
            axis.text(
                place,
                edge + (0.008 if edge >= 0 else -0.008),
                f"{100 * closed:.0f}",
                ha="center",
                va="bottom" if edge >= 0 else "top",
                fontsize=8.5,
                color=_COLOURS[policy],
            )
    for number, policy in enumerate(policies):
        axis.text(0.985, 0.2 - 0.06 * number, policy, color=_COLOURS[policy], ha="right", va="top", fontsize=9.5,
                  fontweight="bold" if policy == DEFAULT else "normal", transform=axis.transAxes)  # fmt: skip
    axis.axhline(0, color=_INK, linewidth=1)
    axis.axhline(_GOAL, color=_FAINT, linewidth=1, linestyle=(0, (4, 2.5)))
    axis.text(-0.48, _GOAL + 0.008, "goal", color=_FAINT, fontsize=9.5, va="bottom")
    axis.set_ylim(floor - 0.03, 0.42)
    axis.set_xticks(range(len(percents)), [f"{percent} %" for percent in percents])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axis.set_xlabel("size of the cache", color=_INK)
    _finish(axis, "Share of the gap from LRU to the optimum that is closed")


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=_INK, pad=10)
    axis.grid(axis="y", color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_FAINT, length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_GRID)
