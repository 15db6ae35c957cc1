"""What every connector keeps, with SGLang's host pools."""

import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

from tests.connectors.contract import ConnectorContract
from tests.engines.sglang.driver import HiCacheDriver


class TestHiCache(ConnectorContract):
    driver = HiCacheDriver
