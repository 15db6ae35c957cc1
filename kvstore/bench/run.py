"""One run from the start of a node to the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kvstore import __version__
from kvstore.bench.bounds import bound_probes, make_bounds
from kvstore.bench.goals import MATCH_KEYS, Goal, judge
from kvstore.bench.machine import CpuMeter, describe_machine, last_level_cache_bytes
from kvstore.bench.measurement import Probe
from kvstore.bench.node import MeasuredNode, served_node
from kvstore.bench.node_memory import NodeMemory, Resident
from kvstore.bench.probes import GetProbe, MatchProbe, PutProbe
from kvstore.bench.python_cost import DEPTHS, SUBJECT, PythonCost, cost_probes, detached_client, fit_cost
from kvstore.bench.results import Results
from kvstore.bench.rounds import Group, run_rounds
from kvstore.bench.settings import BenchSettings
from kvstore.bench.working_set import PutRing, StoredSet, WorkingSet
from kvstore.client import Client, connect
from kvstore.config import KIB, MIB, ClientConfig, NodeConfig, format_bytes
from kvstore.errors import ConfigError, ConnectError
from kvstore.transport import native, ucx_library
from kvstore.transport.entropy import new_token

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["BenchReport", "Progress", "run_bench"]

_SMALL_BLOCK_BYTES: Final = 4 * KIB
_MEMORY_BLOCKS: Final = 32_768
_CHECKED_BLOCKS: Final = 8
# Room that the node has besides what is stored at once, so that space is found although it lies in pieces.
_SLACK_BYTES: Final = 64 * MIB

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many of how many steps are."""


@dataclass(frozen=True)
class BenchReport:
    """All that one run found. `lanes` says, for each lane, what the native core really used."""

    settings: BenchSettings
    baseline: Mapping[str, str]
    lanes: Mapping[str, str]
    results: Results
    python_costs: Mapping[str, PythonCost]
    memory: NodeMemory
    goals: list[Goal]


def run_bench(settings: BenchSettings, on_progress: Progress) -> BenchReport:
    """Measures a node as `settings` say; the node's process, if it is ours, has ended on return.

    Raises `ConnectError` when there is no node to measure, `ConfigError` when it has too little memory, `KVStoreError`
    when an operation failed while it was timed.
    """
    with ExitStack() as stack:
        on_progress("starting", 0, 1)
        node = stack.enter_context(_node(settings))
        clients = {
            lane: stack.enter_context(connect(node.url, lane=lane, timeout_ms=settings.timeout_ms))
            for lane in settings.lanes
        }
        first = next(iter(clients.values()))
        _check_room(settings, first)
        working_set = WorkingSet(settings.working_set_bytes, np.random.default_rng(list(new_token())))
        memory = _measure_memory(node, first, working_set)
        stored = stack.enter_context(_stored(settings, node, clients, working_set, on_progress))
        groups = [
            *_size_groups(settings, clients, working_set, stored, make_bounds(working_set)),
            _calls_group(clients, stored[0], working_set, stack.enter_context(detached_client())),
        ]
        results = _run(settings, groups, node, on_progress)
        costs = _python_costs(results)
        return BenchReport(
            settings,
            baseline=_baseline(settings, node),
            lanes={lane: _endpoint(client, settings.timeout_ms) for lane, client in clients.items()},
            results=results,
            python_costs=costs,
            memory=memory,
            goals=judge(results, costs, memory),
        )


@contextmanager
def _node(settings: BenchSettings) -> Iterator[MeasuredNode]:
    if settings.url is not None:
        yield MeasuredNode(settings.url, None)
        return
    max_block_bytes = max(MIB, *settings.block_bytes)
    with served_node(_needed_bytes(settings), max_block_bytes) as node:
        yield node


def _needed_bytes(settings: BenchSettings) -> int:
    """Blocks of each size, the keys of `match`, and the blocks that are put."""
    sets = len(settings.block_bytes) + 1
    return sets * settings.working_set_bytes + MATCH_KEYS * _SMALL_BLOCK_BYTES + _SLACK_BYTES


def _check_room(settings: BenchSettings, client: Client) -> None:
    counters = client.stats()["node"]
    if counters is None:
        raise ConnectError("the node does not say how much memory it has; it does not answer any more")
    free_bytes = counters["capacity_bytes"] - counters["used_bytes"]
    if free_bytes < _needed_bytes(settings) - _SLACK_BYTES:
        needed = format_bytes(_needed_bytes(settings))
        raise ConfigError(
            f"the node has {format_bytes(free_bytes)} free, and measuring takes {needed};"
            " choose a smaller --working-set or fewer sizes, or give the node more --memory"
        )


def _measure_memory(node: MeasuredNode, client: Client, working_set: WorkingSet) -> NodeMemory:
    blocks = StoredSet(working_set, _SMALL_BLOCK_BYTES, _MEMORY_BLOCKS)
    empty = None if node.pid is None else Resident.of_process(node.pid)
    blocks.fill(client)
    counters = client.stats()["node"]
    assert counters is not None, "a node that has just taken blocks answers"
    full = None if node.pid is None else Resident.of_process(node.pid)
    blocks.delete(client)
    return NodeMemory(counters["blocks"], counters["index_bytes"], empty, full)


@contextmanager
def _stored(
    settings: BenchSettings,
    node: MeasuredNode,
    clients: Mapping[str, Client],
    working_set: WorkingSet,
    on_progress: Progress,
) -> Iterator[list[StoredSet]]:
    """The blocks to get: first those to match, then a set for each size."""
    first = next(iter(clients.values()))
    sets = [StoredSet(working_set, _SMALL_BLOCK_BYTES, MATCH_KEYS)]
    sets += [StoredSet(working_set, block_bytes) for block_bytes in settings.block_bytes]
    try:
        for done, one in enumerate(sets):
            on_progress(f"storing blocks of {format_bytes(one.block_bytes)}", done, len(sets))
            one.fill(first)
            for client in clients.values():
                one.touch_all(client)
                one.check_bytes(client, min(_CHECKED_BLOCKS, len(one.keys)))
        yield sets
    finally:
        if node.pid is None:
            for one in sets:
                one.delete(first)


def _size_groups(
    settings: BenchSettings,
    clients: Mapping[str, Client],
    working_set: WorkingSet,
    stored: list[StoredSet],
    bounds: _native.Bounds,
) -> Iterator[Group]:
    ring = PutRing(working_set)
    first = next(iter(clients.values()))
    for one in stored[1:]:
        probes: list[Probe] = list(bound_probes(bounds, one.block_bytes, settings.depths))
        for lane, client in clients.items():
            for depth in settings.depths:
                probes.append(GetProbe(lane, client, one, depth))
                probes.append(PutProbe(lane, client, ring, one.block_bytes, depth))
        yield Group(format_bytes(one.block_bytes), probes, finish=lambda: ring.clear(first))


def _calls_group(clients: Mapping[str, Client], matched: StoredSet, working_set: WorkingSet, detached: Client) -> Group:
    probes: list[Probe] = [MatchProbe(lane, client, matched.keys) for lane, client in clients.items()]
    probes += cost_probes(detached, working_set)
    return Group("calls", probes)


def _run(settings: BenchSettings, groups: list[Group], node: MeasuredNode, on_progress: Progress) -> Results:
    steps = settings.rounds * sum(len(group.probes) for group in groups)
    done = 0

    def advance(group: str) -> None:
        nonlocal done
        done += 1
        on_progress(f"measuring {group}", done, steps)

    meter = None if node.pid is None else CpuMeter(node.pid)
    rounds = run_rounds(groups, rounds=settings.rounds, budget_ms=settings.budget_ms, meter=meter, advance=advance)
    return Results(list(rounds))


def _python_costs(results: Results) -> dict[str, PythonCost]:
    verbs = {point.verb for point in results.points if point.subject == SUBJECT}
    costs = {}
    for verb in sorted(verbs):
        points = {point.depth: point for point in results.points if (point.subject, point.verb) == (SUBJECT, verb)}
        costs[verb] = fit_cost({depth: results.figure(points[depth]).p50_s for depth in DEPTHS})
    return costs


def _endpoint(client: Client, timeout_ms: int) -> str:
    mine: dict[str, Any] | None = client.stats(timeout_ms=timeout_ms)["client"]
    assert mine is not None, "a client always knows its own lane"
    return str(mine["endpoint"])


def _baseline(settings: BenchSettings, node: MeasuredNode) -> dict[str, str]:
    """What the figures depend on, besides the code."""
    library = ucx_library.load()
    spin_us = ClientConfig.load().spin_us
    served = f"kvstore serve --threads 1 --prefault, polls for {NodeConfig.load().spin_us} µs, then sleeps"
    return {
        **describe_machine(),
        "Last-level cache": format_bytes(last_level_cache_bytes()),
        "kvstore": f"{__version__}, CRC32C {native().crc32c_implementation()}, always on",
        "UCX": "{}.{}.{}, {}".format(*library.version, library.origin),
        "Node": served if node.pid is not None else f"{settings.url}, not started by this run",
        "Client": f"one Python thread, polls for {spin_us} µs, then sleeps",
        "Plain socket": "C++, loopback, TCP_NODELAY, a writev a block, blocking, one thread a side",
        "Copies": "C++, one thread: memcpy, and with non-temporal stores (nt copy)",
        "Working set": f"{format_bytes(settings.working_set_bytes)} on either side, touched, used in turn",
    }
