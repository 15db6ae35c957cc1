"""The contract on the shared core alone, and the negative control: a driver that lies is caught."""

import pytest

from tests.connectors.contract import ConnectorContract
from tests.connectors.core_driver import CoreDriver
from tests.connectors.driver import Identity, WrongBytesError, check_page, page
from tests.connectors.process import start_elsewhere


class TestCore(ConnectorContract):
    driver = CoreDriver


def test_pages_differ_in_all_that_they_are():
    pages = {
        bytes(page(identity, prompt, index, 64))
        for identity in (Identity(), Identity(salt="pepper"), Identity(rank=1))
        for prompt in (1, 2)
        for index in (0, 1)
    }
    assert len(pages) == 12
    with pytest.raises(WrongBytesError):
        check_page(Identity(), 1, 0, page(Identity(lora="adapter"), 1, 0, 64))


def test_a_failure_elsewhere_fails_here():
    with pytest.raises(AssertionError, match="no_such_verb"):
        start_elsewhere(CoreDriver, "kv://127.0.0.1:1", Identity(), {}, ["no_such_verb", 1, 1]).results()
