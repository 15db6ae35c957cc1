"""One line a minute of each kind, whatever happens how often."""

from __future__ import annotations

import logging

import pytest

from kvstore.connectors.core import QuietLog
from tests.connectors.core.clock import FakeClock

LOGGER = logging.getLogger("kvstore.tests.quiet")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def log(clock):
    return QuietLog(LOGGER, clock=clock)


def test_the_first_of_each_text_is_logged(log, caplog):
    log.warning("%d blocks lost", 3)
    log.warning("node %s lost", "a")
    assert caplog.messages == ["3 blocks lost", "node a lost"]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_the_same_text_waits_a_minute_and_says_how_many_were_left_out(log, clock, caplog):
    for count in range(5):
        log.warning("%d blocks lost", count)
    clock.pass_s(59.9)
    log.warning("%d blocks lost", 5)
    assert caplog.messages == ["0 blocks lost"]
    clock.pass_s(0.1)
    log.warning("%d blocks lost", 6)
    assert caplog.messages[1:] == ["6 blocks lost (and 5 more like it since the last line)"]
    clock.pass_s(60)
    log.warning("%d blocks lost", 7)
    assert caplog.messages[2:] == ["7 blocks lost"]


def test_values_with_percent_signs_are_no_formats(log, caplog):
    log.warning("said: %s", "100 %s")
    assert caplog.messages == ["said: 100 %s"]
