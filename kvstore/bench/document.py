"""The report as one JSON document: every figure, and every round behind it."""

from __future__ import annotations

import dataclasses
from typing import Any

from kvstore.bench.measurement import Point
from kvstore.bench.results import Figure, bounds_of
from kvstore.bench.rounds import Round
from kvstore.bench.run import BenchReport

__all__ = ["report_document"]


def report_document(report: BenchReport) -> dict[str, Any]:
    """What `kvstore bench --json` writes. Times are in seconds, `p50_s` of one batch; throughput in bytes a second."""
    results = report.results
    return {
        "settings": dataclasses.asdict(report.settings),
        "baseline": dict(report.baseline),
        "lanes": dict(report.lanes),
        "figures": [_figure(results.figure(point)) for point in sorted(results.points)],
        "python_cost": {verb: dataclasses.asdict(cost) for verb, cost in report.python_costs.items()},
        "node_memory": {**dataclasses.asdict(report.memory), "block_bytes": report.memory.block_bytes},
        "goals": [dataclasses.asdict(goal) for goal in report.goals],
        "rounds": [_round(one) for one in results.rounds],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        **dataclasses.asdict(figure.point),
        "p50_s": figure.p50_s,
        "bytes_a_second": figure.bytes_a_second if figure.point.block_bytes else None,
        "bounds": [bound.subject for bound in bounds_of(figure.point)],
        "ratio": figure.ratio,
        "rounds": figure.rounds,
        "noisy": figure.noisy,
    }


def _round(one: Round) -> dict[str, Any]:
    return {
        "group": one.group,
        "number": one.number,
        "seconds": one.seconds,
        "others_cores": one.others_cores,
        "noisy": one.is_noisy,
        "measured": [_measured(point, dataclasses.asdict(summary)) for point, summary in one.measured.items()],
    }


def _measured(point: Point, summary: dict[str, Any]) -> dict[str, Any]:
    return {**dataclasses.asdict(point), **summary}
