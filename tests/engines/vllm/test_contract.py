"""What every connector keeps, kept by both paths with vLLM's own configuration, hashes and job types."""

import pytest

pytest.importorskip("vllm")

from tests.connectors.contract import ConnectorContract
from tests.engines.vllm.driver import DirectDriver, TierDriver

pytestmark = pytest.mark.slow


class TestTier(ConnectorContract):
    driver = TierDriver


class TestDirect(ConnectorContract):
    driver = DirectDriver

    # vLLM loads what a lookup has found, so a part of what was asked for has no meaning here: it is all or nothing.
    def test_a_longer_prompt_finds_its_prefix(self, connector, prompt):
        connector.save(prompt, 5)
        assert connector.lookup(prompt, 12) == 5
        assert connector.load(prompt, 12) == 0
        assert connector.load(prompt, 5) == 5
