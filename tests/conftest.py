"""Settings shared by all tests."""

import pytest
from hypothesis import settings

# A slow machine must not fail a test; a failure prints what reproduces it.
settings.register_profile("kvstore", deadline=None, print_blob=True)
settings.load_profile("kvstore")

# Their assertions explain themselves as those of test modules do.
pytest.register_assert_rewrite("tests.node_process", "tests.support", "tests.contract")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long, and runs only when -m names it")


def pytest_collection_modifyitems(config, items):
    if config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
