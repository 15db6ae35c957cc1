"""LMCache's own benchmark of second tiers, on ours and on others beside it: `lmcache bench l2` with the same flags.

.venv/bin/python -m benchmarks.connectors.lmcache_l2 --redis-server /usr/bin/redis-server
.venv/bin/python -m benchmarks.connectors.lmcache_l2 --lmcache-python PATH --rounds 9 --in-flight 4

Needs LMCache's environment (`python -m tests.engines.environments lmcache` makes one) and, to compare with LMCache's
Redis adapter, a Redis. Starts a node and Redis on loopback and ends them. In each round every adapter has a turn, each
time in another order, in a process of its own with data that its store has not seen; LMCache's verification is on. A
figure is the median over rounds of a run's median; a ratio is taken within each round, and its median is shown.

Both servers work in memory that they have touched before: the node with --prefault, Redis with an allocator that keeps
what it freed. Files are in the page cache, never on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table

from kvstore.bench.node import ServedNode

GOAL: Final = 3.0
_OPERATIONS: Final = ("Store", "Load", "Lookup")
_BASELINE: Final = "resp (Redis)"
_RUN_TIMEOUT_S: Final = 300.0
_START_S: Final = 10.0
_MIB: Final = 1 << 20
_KEEPS_MEMORY: Final = {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"}

Times = dict[str, float]  # operation: median milliseconds of a round of LMCache's


@dataclass(frozen=True)
class Adapter:
    """`fresh` readies its store for a run and gives the adapter's configuration."""

    name: str
    fresh: Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Flags:
    """Of `lmcache bench l2`, the same for all."""

    object_kib: int
    keys: int
    in_flight: int
    measured: int
    warmup: int

    @property
    def batch_mib(self) -> float:
        return self.object_kib * self.keys * self.in_flight / 1024

    @property
    def all_bytes(self) -> int:
        return int(self.batch_mib * _MIB) * (self.measured + self.warmup)

    def arguments(self) -> list[str]:
        shape = ["--num-keys", str(self.keys), "--in-flight", str(self.in_flight)]
        length = ["--rounds", str(self.measured), "--warmup-rounds", str(self.warmup)]
        checks = ["--lookup-max-hit-rate", "1.0", "--no-skip-verify"]
        return ["--data-size-kb", str(self.object_kib), *shape, *length, *checks]


def ours(url: str) -> list[Adapter]:
    """Both of our adapters; every run has names of its own."""

    def plugin(kind: str, name: str, **params: str) -> Callable[[int], dict[str, Any]]:
        where = {"type": kind, "module_path": "kvstore.connectors.lmcache", "class_name": name}
        return lambda run: {**where, "adapter_params": {"endpoint": url, "revision": f"run {run}", **params}}

    return [
        Adapter("kvstore native_plugin", plugin("native_plugin", "KVStoreNativePlugin", dtype="uint8")),
        Adapter("kvstore plugin", plugin("plugin", "KVStoreL2Adapter")),
    ]


def redis(port: int, workers: int) -> Adapter:
    """LMCache's Redis adapter; Redis is emptied before each run."""

    def fresh(_: int) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", port), _START_S) as connection:
            connection.sendall(b"FLUSHALL SYNC\r\n")
            assert connection.recv(16) == b"+OK\r\n"
        return {"type": "resp", "host": "127.0.0.1", "port": port, "num_workers": workers}

    return Adapter(_BASELINE, fresh)


def files(folder: Path, workers: int) -> Adapter:
    """LMCache's native file adapter, in an empty folder each run."""

    def fresh(run: int) -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return {"type": "fs_native", "base_path": str(folder / str(run)), "num_workers": workers}

    return Adapter("fs_native (page cache)", fresh)


@contextlib.contextmanager
def served_redis(server: Path, libraries: str) -> Iterator[int]:
    """A Redis without persistence, on a free port of loopback, which it gives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {**os.environ, **_KEEPS_MEMORY, **({"LD_LIBRARY_PATH": libraries} if libraries else {})}
    command = [str(server), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        _wait_for_redis(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for_redis(port: int) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
    raise TimeoutError(f"Redis does not answer on port {port}")


def run(python: Path, adapter: Adapter, number: int, flags: Flags) -> Times:
    """One `lmcache bench l2`. Raises `RuntimeError` where anything failed or was not verified."""
    configuration = json.dumps(adapter.fresh(number))
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [str(python), "-m", "lmcache.cli.main", "bench", "l2", "--l2-adapter", configuration]
        command += [*flags.arguments(), "--format", "json", "--output", result.name]
        environment = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S, check=False
        )
        verified = f"All {flags.keys * flags.in_flight} keys data verified OK" in ended.stdout
        if ended.returncode or not verified:
            raise RuntimeError(f"{adapter.name} failed: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        metrics = json.loads(Path(result.name).read_text())["metrics"]
    found = {section["operation"]: section for name, section in metrics.items() if re.fullmatch(r"op_\d+", name)}
    for name, section in found.items():
        if section["total_success"] != section["total_keys"] or section["rounds_timed_out"]:
            raise RuntimeError(f"{adapter.name}: not every object of {name} was good: {section}")
    return {name: float(found[name]["duration_p50_ms"]) for name in _OPERATIONS}


def measure(python: Path, adapters: list[Adapter], flags: Flags, rounds: int, console: Console) -> list[list[Times]]:
    """For each adapter its times in each round. The first turn of each adapter warms up and does not count."""
    times: list[list[Times]] = [[] for _ in adapters]
    number = time.monotonic_ns()
    for turn in range(rounds + 1):
        for place in range(len(adapters)):
            index = (turn + place) % len(adapters)
            number += 1
            found = run(python, adapters[index], number, flags)
            shown = "  ".join(f"{name} {value:8.2f} ms" for name, value in found.items())
            console.print(f"round {turn}  {adapters[index].name:24}{shown}", style="dim", highlight=False)
            if turn:
                times[index].append(found)
    return times


def show(console: Console, adapters: list[Adapter], times: list[list[Times]], flags: Flags) -> bool:
    """The table; whether the goals are reached, as far as there is something to compare with."""
    names = [adapter.name for adapter in adapters]
    baseline = names.index(_BASELINE) if _BASELINE in names else None
    columns = [Column("adapter", style="bold"), *(Column(name, justify="right") for name in _OPERATIONS)]
    if baseline is not None:
        columns += [Column(f"{name} / Redis", justify="right") for name in _OPERATIONS]
    title = f"lmcache bench l2: {flags.keys} objects of {flags.object_kib} KiB, {flags.in_flight} in flight"
    table = Table(*columns, title=title, box=box.ROUNDED, border_style="cyan")
    reached = True
    for index, name in enumerate(names):
        cells = []
        for operation in _OPERATIONS:
            median_ms = statistics.median(one[operation] for one in times[index])
            rate = f"{flags.batch_mib / 1024 / median_ms * 1000:.2f} GiB/s" if operation != "Lookup" else ""
            cells.append(f"{median_ms:.2f} ms {rate}")
        for operation in _OPERATIONS if baseline is not None else ():
            assert baseline is not None
            pairs = zip(times[index], times[baseline], strict=True)
            ratio = statistics.median(theirs[operation] / mine[operation] for mine, theirs in pairs)
            cells.append(f"{ratio:.2f}")
            reached &= ratio >= GOAL or operation == "Lookup" or not name.startswith("kvstore")
        table.add_row(name, *cells)
    console.print(table)
    return reached


def main(
    lmcache_python: Annotated[Path, typer.Option(help="Python of an environment with LMCache.")] = Path(
        "build/engines/lmcache/bin/python"
    ),
    redis_server: Annotated[Path | None, typer.Option(help="Redis to compare with; none if not given.")] = None,
    redis_libraries: Annotated[str, typer.Option(help="Folders of its libraries, if it is not installed.")] = "",
    workers: Annotated[int, typer.Option(help="Workers of LMCache's own adapters.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    object_kib: Annotated[int, typer.Option(min=4)] = 2048,
    keys: Annotated[int, typer.Option(min=1, help="Objects a batch.")] = 32,
    in_flight: Annotated[int, typer.Option(min=1, help="Batches at once.")] = 1,
) -> None:
    """Compares adapters; the exit status is 1 where ours are not three times as fast as Redis's."""
    console = Console(highlight=False, width=140)
    flags = Flags(object_kib, keys, in_flight, measured=6, warmup=2)
    with contextlib.ExitStack() as stack:
        # Runs of both of ours at once, and room beside them.
        memory = str(3 * flags.all_bytes)
        node = stack.enter_context(ServedNode("--memory", memory, "--prefault", "--threads", "1"))
        adapters = ours(node.url)
        if redis_server is not None:
            adapters.append(redis(stack.enter_context(served_redis(redis_server, redis_libraries)), workers))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-lmcache-")))
        adapters.append(files(folder / "files", workers))
        before = os.getloadavg()[0]
        times = measure(lmcache_python.absolute(), adapters, flags, rounds, console)
    reached = show(console, adapters, times, flags)
    console.print(
        f"load average before {before:.1f}, after {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores", style="dim"
    )
    raise typer.Exit(0 if reached else 1)


if __name__ == "__main__":
    typer.run(main)
