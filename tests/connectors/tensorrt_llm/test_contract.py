"""The contract of all connectors, kept by the one for TensorRT-LLM as far as a stand-in for the engine can tell."""

import pytest

pytest.importorskip("torch")

from tests.connectors.contract import ConnectorContract
from tests.connectors.driver import Identity
from tests.connectors.tensorrt_llm.driver import TensorRTDriver, TwoRanksDriver


class TestTensorRT(ConnectorContract):
    driver = TensorRTDriver


class TestTwoRanks(ConnectorContract):
    driver = TwoRanksDriver
    identity = Identity(world_size=2)
