"""The contract of all connectors, kept by the one for transformers."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.connectors.contract import ConnectorContract
from tests.connectors.transformers.driver import TransformersDriver


class TestTransformers(ConnectorContract):
    driver = TransformersDriver
