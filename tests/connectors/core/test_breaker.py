"""When a store that does not answer is left alone, and for how long."""

from __future__ import annotations

import pytest

from kvstore.connectors.core.breaker import Breaker
from tests.connectors.core.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def breaker(clock):
    return Breaker(clock)


def open_it(breaker):
    breaker.note(timed_out=True)
    breaker.note(timed_out=True)
    assert breaker.is_open


def pause_s(breaker, clock):
    """How long it refuses from now on; ends with the try that it lets through."""
    waited_s = 0.0
    while breaker.refuses():
        clock.pass_s(0.25)
        waited_s += 0.25
        assert waited_s < 100, "it never lets anything try"
    return waited_s


def test_one_timeout_is_no_reason(breaker):
    breaker.note(timed_out=True)
    assert not breaker.is_open
    assert not breaker.refuses()
    breaker.note(timed_out=False)
    breaker.note(timed_out=True)
    assert not breaker.is_open
    assert breaker.openings == 0


def test_two_in_a_row_open_it_for_a_second(breaker, clock):
    open_it(breaker)
    assert breaker.openings == 1
    clock.pass_s(0.999)
    assert breaker.refuses()
    clock.pass_s(0.001)
    assert not breaker.refuses()


def test_one_request_tries_and_the_others_wait_for_it(breaker, clock):
    open_it(breaker)
    clock.pass_s(1)
    assert not breaker.refuses()
    assert breaker.refuses()
    assert breaker.is_open
    breaker.note(timed_out=False)
    assert not breaker.is_open
    assert not breaker.refuses()


def test_asking_whether_it_is_open_is_no_try(breaker, clock):
    open_it(breaker)
    clock.pass_s(1)
    assert breaker.is_open
    assert breaker.is_open
    assert not breaker.refuses()


def test_pauses_double_up_to_thirty_seconds(breaker, clock):
    open_it(breaker)
    pauses = []
    for _ in range(7):
        pauses.append(pause_s(breaker, clock))
        breaker.note(timed_out=True)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert breaker.openings == 1


def test_a_try_that_nobody_hears_of_is_followed_by_another(breaker, clock):
    open_it(breaker)
    clock.pass_s(1)
    assert not breaker.refuses()
    assert pause_s(breaker, clock) == 1


def test_a_crowd_that_times_out_together_pauses_no_longer_than_two(breaker, clock):
    for _ in range(100):
        breaker.note(timed_out=True)
    assert pause_s(breaker, clock) == 1
    assert breaker.openings == 1


def test_after_a_recovery_the_first_pause_is_short_again(breaker, clock):
    open_it(breaker)
    for _ in range(4):
        pause_s(breaker, clock)
        breaker.note(timed_out=True)
    pause_s(breaker, clock)
    breaker.note(timed_out=False)
    open_it(breaker)
    assert breaker.openings == 2
    assert pause_s(breaker, clock) == 1
