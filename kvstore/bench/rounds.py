"""Measuring everything again and again, so that what disturbs the machine for a while disturbs all of it alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvstore.bench.machine import NOISY_CORES, CpuMeter
from kvstore.bench.measurement import Point, Probe, Summary

__all__ = ["Group", "Round", "run_rounds"]


@dataclass(frozen=True)
class Group:
    """Probes that are compared with each other: measured one right after the other in each round."""

    name: str
    probes: Sequence[Probe]
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Round:
    """One pass over the probes of one group. `others_cores` is None where it cannot be told."""

    group: str
    number: int
    seconds: float
    others_cores: float | None
    measured: Mapping[Point, Summary]

    @property
    def is_noisy(self) -> bool:
        return self.others_cores is not None and self.others_cores > NOISY_CORES


def run_rounds(
    groups: Sequence[Group],
    *,
    rounds: int,
    budget_ms: int,
    meter: CpuMeter | None,
    advance: Callable[[str], None],
) -> Iterator[Round]:
    """Yields `rounds` rounds of each group, the groups in turn. `advance` is told the group after each probe."""
    for number in range(rounds):
        for group in groups:
            yield _run_round(group, number, number / rounds, budget_ms, meter, advance)


def _run_round(
    group: Group, number: int, shift: float, budget_ms: int, meter: CpuMeter | None, advance: Callable[[str], None]
) -> Round:
    """`shift`, from 0 to 1, says with which of its probes the group begins: none is always the first, or the last."""
    start_s = time.monotonic()
    if meter is not None:
        meter.restart()
    first = int(shift * len(group.probes))
    measured = {}
    for probe in [*group.probes[first:], *group.probes[:first]]:
        measured[probe.point] = Summary.of(probe.measure(budget_ms))
        advance(group.name)
    others_cores = None if meter is None else meter.others_cores()
    group.finish()
    return Round(group.name, number, time.monotonic() - start_s, others_cores, measured)
