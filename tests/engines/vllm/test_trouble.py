"""Real engines while the node, or a request, dies under them: they say what they say without the store."""

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm.engine import Engine, direct, tiered
from tests.engines.vllm.models import prompt
from tests.node_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FIRST, SECOND, THIRD = (prompt(name, 400) for name in ("first", "second", "third"))
QUICK = {"lookup_timeout_ms": 500, "load_timeout_ms": 1500, "save_timeout_ms": 1500}


@pytest.fixture(scope="module")
def expected(llama):
    with Engine(llama) as engine:
        return dict(zip(("first", "second", "third"), engine.generate(FIRST, SECOND, THIRD), strict=True))


def signalling(path, node, number, at):
    signal = {"pid": node.pid, "number": number, "at": at}
    module = "tests.engines.vllm.faults"
    if path == "tiered":
        return tiered(node.url, type="SignallingTier", module_path=module, signal=signal, **QUICK)
    spec = {"spec_name": "SignallingSpec", "spec_module_path": module, "signal": signal}
    return direct(node.url, extra=spec, **QUICK)


def await_loads(engine, ids, expected):
    """The store is back: what the engine forgets it finds there."""

    def is_back():
        engine.forget()
        before = engine.metrics()["vllm:kvstore_load_good_blocks"]
        assert engine.generate(ids) == [expected]
        return engine.metrics()["vllm:kvstore_load_good_blocks"] > before

    wait_until(is_back, "the engine loads from the store", 60)


@pytest.mark.parametrize("at", ["load", "save"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("path", ["tiered", "direct"])
def test_the_node_goes_in_the_middle(llama, node, expected, path, number, at):
    with Engine(llama, kv_transfer_config=signalling(path, node, number, at)) as engine:
        assert engine.generate(FIRST) == [expected["first"]]
        if at == "load":
            engine.forget()
            assert engine.generate(FIRST) == [expected["first"]]
            assert engine.metrics()["vllm:kvstore_load_good_blocks"] == 0
        assert engine.generate(SECOND) == [expected["second"]]
        if number == signal.SIGKILL:
            node.wait()
            node.start()
        else:
            node.thaw()
        await_loads(engine, THIRD, expected["third"])


@pytest.mark.parametrize("path", ["tiered", "direct"])
def test_a_request_is_given_up_while_it_loads(llama, node, expected, path):
    with Engine(llama, kv_transfer_config=signalling(path, node, signal.SIGSTOP, "load")) as engine:
        assert engine.generate(FIRST) == [expected["first"]]
        engine.forget()
        engine.abort(FIRST, steps=100)
        node.thaw()
        assert engine.generate(FIRST, SECOND) == [expected["first"], expected["second"]]
        await_loads(engine, FIRST, expected["first"])


def test_an_engine_is_killed_and_another_takes_its_place(llama, node, expected):
    config = tiered(node.url) | {"engine_id": f"kvstore-test-{os.getpid()}"}
    try:
        with Engine(llama, kv_transfer_config=config) as engine:
            assert engine.generate(FIRST) == [expected["first"]]
            engine.begin(SECOND, tokens=500)
            engine.kill()
    finally:
        # vLLM leaves its host memory behind when it is killed.
        Path(f"/dev/shm/vllm_offload_{config['engine_id']}.mmap").unlink(missing_ok=True)
    with Engine(llama, kv_transfer_config=tiered(node.url)) as engine:
        assert engine.generate(FIRST) == [expected["first"]]
        assert engine.metrics()["vllm:kvstore_load_good_blocks"] == len(FIRST) // 32
        assert engine.generate(SECOND) == [expected["second"]]


def test_the_node_is_not_there_at_all(llama, node, expected):
    node.kill()
    with Engine(llama, kv_transfer_config=tiered(node.url, **QUICK)) as engine:
        assert engine.generate(FIRST) == [expected["first"]]
        node.start()
        await_loads(engine, THIRD, expected["third"])
