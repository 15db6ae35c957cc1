"""`kvstore bench`: one tiny run for real, and its arithmetic on made-up rounds. No assertion on speed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from kvstore.bench import BenchSettings
from kvstore.bench.bounds import bound_probes, make_bounds
from kvstore.bench.goals import judge
from kvstore.bench.machine import CpuMeter
from kvstore.bench.measurement import Point, Summary, repeat
from kvstore.bench.node_memory import NodeMemory, Resident
from kvstore.bench.python_cost import PythonCost, fit_cost
from kvstore.bench.results import Results
from kvstore.bench.rounds import Group, Round, run_rounds
from kvstore.bench.working_set import WorkingSet
from kvstore.config import KIB, MIB
from kvstore.errors import ConfigError, KVStoreError
from tests.node_process import COMMAND, LANES, NodeProcess, wait_until

TINY = ("--size", "4KiB", "--size", "64KiB", "--depth", "1", "--depth", "2", "--rounds", "1", "--point-ms", "1")
TINY += ("--working-set", "1MiB")
RUN_TIMEOUT_S = 60
GET = Point("tcp", "get", 2 * MIB, 8)
SOCKET = Point("socket", "get", 2 * MIB, 8)
SOCKET_APART = Point("socket_apart", "get", 2 * MIB, 8)


def run_bench(*arguments, **options):
    return subprocess.run(
        [*COMMAND, "bench", *arguments], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, **options
    )


def test_a_tiny_run(tmp_path):
    file = tmp_path / "result.json"
    done = run_bench(*TINY, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    result = json.loads(file.read_text())
    measured = {(f["subject"], f["verb"], f["block_bytes"], f["depth"]) for f in result["figures"]}
    for verb in ("get", "put"):
        for lane in (*LANES, "socket"):
            assert {(lane, verb, size, depth) for size in (4096, 65536) for depth in (1, 2)} <= measured
    assert {(lane, "match", 0, 256) for lane in LANES} <= measured  # as many as the working set has room for
    assert {subject for subject, verb, _, _ in measured if verb == "copy"} == {"memcpy", "streaming"}
    assert all(figure["p50_s"] > 0 for figure in result["figures"])
    assert result["lanes"]["mapped"] == "mapped"
    assert "tcp" in result["lanes"]["tcp"]
    assert set(result["python_cost"]) == {"get", "put"}
    assert result["node_memory"]["index_bytes"] > 0
    assert len(result["goals"]) == 7


def test_a_node_that_runs_already_is_left_as_it_was(tmp_path):
    with NodeProcess(tmp_path) as node:
        done = run_bench(*TINY, "--url", node.url, "--lane", "mapped", "--json", str(tmp_path / "result.json"))
        assert done.returncode == 0, done.stderr
        stats = subprocess.run(
            [*COMMAND, "stats", node.url, "--json"], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=True
        )
    counters = json.loads(stats.stdout)["counters"]
    assert counters["puts"] > 0
    assert (counters["blocks"], counters["used_bytes"], counters["evicted_blocks"]) == (0, 0, 0)


def test_a_plot(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "result.svg"
    done = run_bench(*TINY, "--lane", "mapped", "--plot", str(file))
    assert done.returncode == 0, done.stderr
    assert "<svg" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lane", "pigeon"), "there is no lane pigeon"),
        (("--size", "1KiB"), "a block has 4 KiB to 64 MiB"),
        (("--depth", "0"), "depth"),
        (("--working-set", "1MiB", "--size", "2MiB"), "the working set has 1 MiB"),
        (("--json", "/nowhere/result.json"), "there is no directory /nowhere"),
        (("--url", "kv://127.0.0.1:1"), "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(arguments, message):
    done = run_bench(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_node(number):
    process = subprocess.Popen([*COMMAND, "bench", "--quick"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: children.read_text().strip(), "the bench starts a node", timeout_s=30)
        node = Path(f"/proc/{children.read_text().split()[0]}")
        process.send_signal(number)
        process.communicate(timeout=RUN_TIMEOUT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert not node.exists()


def make_working_set():
    return WorkingSet(MIB, np.random.default_rng(seed=3))


def measure_all_bounds(working_set):
    """Each bound moves the whole working set; yields what it moved to."""
    for probe in bound_probes(make_bounds(working_set), 64 * KIB, [16]):
        working_set.target[:] = 0
        assert (probe.measure(1) > 0).all()
        yield probe.point


def test_bounds_move_the_bytes():
    working_set = make_working_set()
    subjects = set()
    for point in measure_all_bounds(working_set):
        assert np.array_equal(working_set.target, working_set.source), point
        subjects.add(point.subject)
    assert {"socket", "memcpy", "streaming"} <= subjects


def test_a_thread_that_was_bound_to_a_core_is_free_again():
    cores = os.sched_getaffinity(0)
    assert len(list(measure_all_bounds(make_working_set()))) >= 4
    assert os.sched_getaffinity(0) == cores


def test_bounds_refuse_nonsense():
    working_set = make_working_set()
    bounds = make_bounds(working_set)
    for block_bytes, depth, budget_ms in ((2 * MIB, 1, 1), (0, 1, 1), (4096, 0, 1), (4096, 1, 1 << 30)):
        with pytest.raises(ValueError, match="must be"):
            bounds.socket("get", block_bytes, depth, budget_ms, apart=False)
    with pytest.raises(ValueError, match="kind must be"):
        bounds.copy("teleport", 4096, 1, 1)
    working_set.target = working_set.target[:4096]
    with pytest.raises(ValueError, match="differ in length"):
        make_bounds(working_set)


def make_round(number, seconds, *, others_cores=0.0):
    measured = {point: Summary(s, s, s, batches=3) for point, s in seconds.items()}
    return Round("2 MiB", number, 1.0, others_cores, measured)


def test_a_ratio_is_taken_in_each_round_and_to_the_faster_bound():
    results = Results(
        [
            make_round(0, {GET: 2.0, SOCKET: 1.0, SOCKET_APART: 4.0}),  # 0.5
            make_round(1, {GET: 10.0, SOCKET: 90.0, SOCKET_APART: 8.0}),  # 0.8
            make_round(2, {GET: 1.0, SOCKET: 0.9, SOCKET_APART: 9.0}),  # 0.9
        ]
    )
    figure = results.figure(GET)
    assert figure.ratio == pytest.approx(0.8)
    assert figure.p50_s == 2.0
    assert figure.bytes_a_second == 8 * MIB
    assert results.figure(SOCKET).ratio is None


@pytest.mark.parametrize(("quiet", "counted"), [(3, 3), (2, 5)])
def test_noisy_rounds_count_only_if_few_are_quiet(quiet, counted):
    rounds = [make_round(n, {GET: 1.0 if n < quiet else 9.0}, others_cores=0.0 if n < quiet else 1.5) for n in range(5)]
    figure = Results(rounds).figure(GET)
    assert figure.rounds == counted
    assert figure.noisy == (counted == 5)
    assert figure.p50_s == (1.0 if counted == 3 else 9.0)


def test_the_cost_of_python_is_a_line():
    cost = fit_cost({depth: 3e-6 + depth * 0.25e-6 for depth in (1, 16, 64, 256)})
    assert cost.batch_us == pytest.approx(3)
    assert cost.block_us == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call_s", "cost", "own_bytes", "reached"),
    [
        (1.1, PythonCost(9.9, 0.4), 60 * MIB, True),
        (1.2, PythonCost(9.9, 0.6), 68 * MIB, False),
    ],
)
def test_goals_are_judged_by_what_was_measured(call_s, cost, own_bytes, reached):
    results = Results([make_round(0, {GET: call_s, SOCKET: 1.0})])
    full = Resident(own_bytes=own_bytes, file_bytes=MIB)
    goals = judge(results, {"get": cost}, NodeMemory(1000, 126_000, Resident(1, MIB), full))
    verdicts = {goal.name: goal.reached for goal in goals}
    assert verdicts.pop("tcp get, 2 MiB / socket") == reached
    assert verdicts.pop("Python's own cost") == reached
    assert verdicts.pop("node memory besides blocks") == reached
    assert set(verdicts.values()) == {None}


def test_rounds_begin_with_another_probe_each():
    order = []

    class Probe:
        def __init__(self, number):
            self.point = Point("made up", "get", 1, number)

        def measure(self, budget_ms):
            order.append(self.point.depth)
            return np.array([0.5])

    group = Group("all", [Probe(number) for number in range(4)])
    rounds = list(run_rounds([group], rounds=2, budget_ms=1, meter=None, advance=lambda group: None))
    assert order == [0, 1, 2, 3, 2, 3, 0, 1]
    assert [one.number for one in rounds] == [0, 1]
    assert rounds[0].measured[Point("made up", "get", 1, 3)] == Summary(0.5, 0.5, 0.5, 1)


def test_only_the_call_is_timed_and_every_answer_is_checked():
    answers = []

    def prepare():
        time.sleep(0.02)
        return lambda: len(answers)

    seconds = repeat(1, prepare, answers.append)
    assert len(seconds) == 3  # at least, however short the time
    assert seconds.max() < 0.02
    assert answers == [0, 1, 2, 3]


def test_a_failed_call_ends_the_measurement():
    def check(answer):
        raise KVStoreError("not done in full")

    with pytest.raises(KVStoreError, match="not done in full"):
        repeat(1, lambda: lambda: 1, check)


def test_what_the_node_uses_is_not_noise(tmp_path):
    node = tmp_path / "7"
    node.mkdir()

    def busy(machine_ticks, node_ticks):
        (tmp_path / "stat").write_text(f"cpu {machine_ticks} 0 0 {1 << 40} {1 << 40} 0 0 0 0 0\ncpu0 and so on\n")
        (node / "stat").write_text(f"7 (a) name) S {'0 ' * 10}{node_ticks} 0 0 0")

    busy(0, 0)
    meter = CpuMeter(7, proc=tmp_path)
    busy(1_000_000, 1_000_000)
    assert meter.others_cores() == 0
    meter.restart()
    busy(3_000_000, 2_000_000)
    assert meter.others_cores() > 1


def test_settings_of_the_quick_run_are_valid():
    assert BenchSettings.quick().rounds < BenchSettings().rounds
    with pytest.raises(ConfigError):
        BenchSettings(rounds=0)
