"""Engines that stand for TensorRT-LLM."""

from __future__ import annotations

import pytest

from tests.node_process import wait_until

TIMEOUTS = {"lookup_timeout_ms": 500, "load_timeout_ms": 1000, "save_timeout_ms": 1000}


@pytest.fixture
def open_engine(node):
    """Makes engines of one node, and closes them in the end; `settings` are the connector's."""
    from tests.connectors.tensorrt_llm.engine import FakeEngine, arguments, environment  # needs torch

    engines = []

    def make(*, settings=None, blocks=64, second_manager=False, **changes):
        with environment(node.url, TIMEOUTS | (settings or {})):
            engines.append(FakeEngine(arguments(**changes), blocks=blocks, second_manager=second_manager))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def fill():
    """Gives each page of a request bytes of its own, as a forward pass would."""

    def write(engine, request, first=0, end=None):
        for rank, pages in enumerate(engine.pages):
            for index, block in list(enumerate(engine.blocks_of(request)))[first:end]:
                if block >= 0:
                    pages[block] = 1 + rank * 100 + index

    return write


@pytest.fixture
def settle():
    """Waits for the end of all saves."""

    def wait(engine):
        wait_until(lambda: not engine.is_saving(), "saves end", 30)

    return wait
