"""Runs one operation over one lane without end in sight, so that a profiler can look at both sides of it.

.venv/bin/python benchmarks/profile_lane.py --lane mapped --verb get --size 2MiB --depth 8 --seconds 60
perf record -g -p NODE_PID -p CLIENT_PID -- sleep 10        (in another terminal; the process ids are printed)
"""

from __future__ import annotations

import os
import time
from typing import Annotated

import numpy as np
import typer

from kvstore import connect
from kvstore.bench.measurement import Probe, Summary
from kvstore.bench.node import served_node
from kvstore.bench.probes import GetProbe, PutProbe
from kvstore.bench.working_set import PutRing, StoredSet, WorkingSet
from kvstore.config import MIB, parse_bytes

WORKING_SET_BYTES = 256 * MIB
REPORT_MS = 1000


def main(
    lane: Annotated[str, typer.Option(help="tcp, shm or mapped.")] = "mapped",
    verb: Annotated[str, typer.Option(help="get or put.")] = "get",
    size: Annotated[str, typer.Option(help="Size of a block.")] = "2MiB",
    depth: Annotated[int, typer.Option(min=1, help="Blocks in one call.")] = 8,
    seconds: Annotated[int, typer.Option(min=1, max=3600, help="How long.")] = 30,
) -> None:
    """Prints throughput and latency every second."""
    if verb not in {"get", "put"}:
        raise typer.BadParameter(f"the verb is get or put, not {verb}")
    block_bytes = parse_bytes(size)
    working_set = WorkingSet(WORKING_SET_BYTES, np.random.default_rng(seed=1))
    with (
        served_node(2 * WORKING_SET_BYTES + 64 * MIB, max(MIB, block_bytes)) as node,
        connect(node.url, lane=lane, timeout_ms=10_000) as client,
    ):
        print(f"node {node.pid}, client {os.getpid()}, {client!r}", flush=True)
        stored = StoredSet(working_set, block_bytes)
        stored.fill(client)
        get = GetProbe(lane, client, stored, depth)
        put = PutProbe(lane, client, PutRing(working_set), block_bytes, depth)
        probe: Probe = get if verb == "get" else put
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            summary = Summary.of(probe.measure(REPORT_MS))
            rate = probe.point.batch_bytes / summary.p50_s / 1e9
            print(
                f"{rate:6.2f} GB/s   p50 {summary.p50_s * 1e6:8.1f} µs   p90 {summary.p90_s * 1e6:8.1f} µs", flush=True
            )


if __name__ == "__main__":
    typer.run(main)
