"""Models on disk, nodes, and what an engine without the connector says."""

import pytest

from tests.support.node import Node


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    from tests.engines.models import write_llama

    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    from tests.engines.vllm.models import write_gemma

    return write_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="256MiB") as running:
        yield running
