"""What every connector keeps, kept by both adapters."""

import pytest

pytest.importorskip("lmcache")

from tests.connectors.contract import ConnectorContract
from tests.engines.lmcache.driver import NativePluginDriver, PluginDriver


class TestNativePlugin(ConnectorContract):
    driver = NativePluginDriver


class TestPlugin(ConnectorContract):
    driver = PluginDriver
