"""The main job: its verdict, its children, and the whole of it with a real node and real engines."""

import asyncio
import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kvstore.demo.messages import Answer, Transfer
from kvstore.demo.processes import Child, ChildError
from kvstore.demo.prompt import prompt_tokens
from kvstore.demo.verdict import Continuation, Sharing, judge_loss, judge_restart, judge_sharing
from tests.node_process import COMMAND

DEMO = [*COMMAND, "demo", "--tokens=600", "--new-tokens=6"]
ENVIRONMENT = {**os.environ, "COLUMNS": "100"}


def test_text_has_several_thousand_tokens():
    tokens = prompt_tokens()
    assert len(tokens) > 6000
    assert set(tokens) <= set(range(256))
    assert prompt_tokens(100) == tokens[:100]
    with pytest.raises(ValueError, match="tokens"):
        prompt_tokens(len(tokens) + 1)


def continuation(*, tokens=(5, 6, 7), offset=0.0, loaded=0, from_disk=0, saved=0, match_seconds=0.001):
    answer = Answer(
        tokens=list(tokens),
        logits_file="",
        first_token_seconds=1.0,
        match_seconds=match_seconds,
        loaded=Transfer(blocks=loaded, disk_blocks=from_disk, bytes=100 * loaded),
        saved=Transfer(blocks=saved, bytes=100 * saved),
    )
    return Continuation(answer=answer, logits=np.arange(30, dtype=np.float32).reshape(3, 10) + np.float32(offset))


GOOD = Sharing(
    blocks=4,
    one_shot=continuation(offset=1e-3),
    stored=continuation(saved=4),
    warm=continuation(loaded=4),
    zeroed=continuation(loaded=4, offset=1.0),
)


def test_verdict_on_a_good_run_is_good():
    assert all(check.holds for check in judge_sharing(GOOD))
    assert all(check.holds for check in judge_loss(GOOD, continuation(), timeout_ms=100))
    assert all(check.holds for check in judge_restart("killed", GOOD, continuation(loaded=4, from_disk=4)))


@pytest.mark.parametrize(
    ("spoiled", "failed"),
    [
        ({"stored": continuation(saved=3)}, [0, 1]),
        ({"warm": continuation(loaded=3)}, [1]),
        ({"warm": continuation(loaded=4, offset=1e-6)}, [2]),
        ({"warm": continuation(loaded=4, tokens=(5, 6, 8))}, [3]),
        ({"warm": continuation(loaded=4, tokens=(5, 6))}, [3]),
        ({"one_shot": continuation(tokens=(9, 6, 7))}, [3]),
        ({"zeroed": continuation(loaded=4)}, [4]),
        ({"zeroed": continuation(loaded=0, offset=1.0)}, [4]),
    ],
)
def test_verdict_names_what_failed(spoiled, failed):
    checks = judge_sharing(dataclasses.replace(GOOD, **spoiled))
    assert [index for index, check in enumerate(checks) if not check.holds] == failed


def test_zeros_of_different_sign_are_not_bit_identical():
    positive, negative = continuation(loaded=4), continuation(saved=4)
    negative.logits[0, 0] = -0.0
    assert not judge_sharing(dataclasses.replace(GOOD, warm=positive, stored=negative))[2].holds


@pytest.mark.parametrize(
    ("recomputed", "failed"),
    [
        (continuation(loaded=1), [0]),
        (continuation(match_seconds=0.2), [0]),
        (continuation(offset=1.0), [1]),
        (continuation(tokens=(5, 6)), [2]),
    ],
)
def test_verdict_on_a_lost_node(recomputed, failed):
    checks = judge_loss(GOOD, recomputed, timeout_ms=100)
    assert [index for index, check in enumerate(checks) if not check.holds] == failed


@pytest.mark.parametrize(
    ("reloaded", "failed"),
    [
        (continuation(loaded=3, from_disk=3), [0]),
        (continuation(loaded=4, from_disk=3), [0]),
        (continuation(loaded=4), [0]),
        (continuation(loaded=4, from_disk=4, offset=1.0), [1]),
    ],
)
def test_verdict_on_a_node_that_came_back(reloaded, failed):
    checks = judge_restart("stopped", GOOD, reloaded)
    assert [index for index, check in enumerate(checks) if not check.holds] == failed


def start(tmp_path, script):
    return Child.start("the child", [sys.executable, "-c", script], log=tmp_path / "log")


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_child_answers_and_ends(tmp_path):
    async def scenario():
        fractions = []
        async with await start(
            tmp_path, "print('{\"progress\": 0.5}'); print('{\"answer\": ' + input() + '}', flush=True); input()"
        ) as child:
            await child.say({"a": 1})
            assert await child.hear("answer", timeout_s=30, on_progress=fractions.append) == {"a": 1}
        assert fractions == [0.5]
        return child.pid

    assert not alive(asyncio.run(scenario()))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('the reason')", "exit status 1\nthe reason"),
        ("input()", "no answer within 1 s"),
        ("print('hello', flush=True); input()", "said what is no answer"),
    ],
)
def test_child_that_fails_is_reported(tmp_path, script, message):
    async def scenario():
        async with await start(tmp_path, script) as child:
            await child.hear("answer", timeout_s=1 if script == "input()" else 30)

    with pytest.raises(ChildError, match=re.escape(message)):
        asyncio.run(scenario())


def test_child_that_ignores_sigterm_is_killed_when_the_block_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("kvstore.demo.processes._END_TIMEOUT_S", 0.1)
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); input()"

    async def scenario():
        async with await start(tmp_path, script) as child:
            await child.read_line(timeout_s=30)
        return child.pid

    assert not alive(asyncio.run(scenario()))


def test_cancelled_demo_leaves_no_child(tmp_path):
    pids = []

    async def scenario():
        async with await start(tmp_path, "input()") as child:
            pids.append(child.pid)
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            await child.hear("answer", timeout_s=30)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert not alive(pids[0])


# Looked for, not imported: only the engines' own processes need them.
needs_engines = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "transformers")), reason="the extra `demo` is missing"
)


@needs_engines
def test_main_job_holds():
    result = subprocess.run(DEMO, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "All 12 checks hold" in result.stdout
    assert "First token, warm" in result.stdout
    assert result.stdout.count("37 of 37 in") == 2  # from disk: after the stop, and after the kill
    for how in ("SIGTERM", "SIGKILL"):
        assert not alive(int(re.search(rf"{how} to process (\d+)", result.stdout)[1]))


@needs_engines
def test_main_job_holds_in_less_memory_than_the_blocks_have():
    result = subprocess.run(
        [*DEMO, "--memory=2MiB"], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_engines
def test_main_job_fails_when_the_node_cannot_hold_the_blocks():
    too_small = ["--memory=2MiB", "--disk-size=0"]
    result = subprocess.run(
        [*DEMO, *too_small], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(r"✗ engine A stored every block +\d+ of 37", result.stdout)
    assert re.search(r"✗ the killed node has every block, and reads it from disk +0 of 37", result.stdout)
    assert "checks failed" in result.stdout


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_engines
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_main_job_leaves_no_process(number):
    with subprocess.Popen(DEMO, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as demo:
        # Not a terminal: the introduction is printed at once, the stages only when they are through.
        demo.stdout.readline()
        while len(children := children_of(demo.pid)) < 2 and demo.poll() is None:
            time.sleep(0.02)
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert children
    assert not any(map(alive, children))
