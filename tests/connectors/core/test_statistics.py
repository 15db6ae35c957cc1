"""Counters of a connector."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from kvstore.connectors.core.statistics import Statistics


def test_every_counter_is_there_from_the_start():
    values = Statistics().values()
    assert set(values.values()) == {0}
    for prefix in ("lookup", "load", "save"):
        assert {f"{prefix}s", f"{prefix}_blocks", f"{prefix}_seconds"} <= values.keys()
    assert {"lookup_hit_blocks", "load_good_blocks", "save_good_blocks", "load_bytes", "save_bytes"} <= values.keys()
    assert {"saves_dropped", "save_dropped_blocks", "errors"} <= values.keys()


def test_requests_are_counted_when_they_begin_and_when_they_end():
    statistics = Statistics()
    statistics.submitted("lookup", 8)
    statistics.submitted("exists", 2)
    statistics.submitted("load", 5)
    statistics.submitted("save", 4)
    statistics.ended("lookup", 6, 0, 0.25)
    statistics.ended("exists", 1, 0, 0.25)
    statistics.ended("load", 3, 5000, 2.0)
    statistics.ended("save", 4, 4000, 1.0)
    statistics.count(errors=2)
    assert {name: value for name, value in statistics.values().items() if value} == {
        "lookups": 2,
        "lookup_blocks": 10,
        "lookup_hit_blocks": 7,
        "lookup_seconds": 0.5,
        "loads": 1,
        "load_blocks": 5,
        "load_good_blocks": 3,
        "load_bytes": 5000,
        "load_seconds": 2.0,
        "saves": 1,
        "save_blocks": 4,
        "save_good_blocks": 4,
        "save_bytes": 4000,
        "save_seconds": 1.0,
        "errors": 2,
    }


def test_values_are_a_copy():
    statistics = Statistics()
    statistics.values()["errors"] = 7
    assert statistics.values()["errors"] == 0


def test_threads_lose_nothing():
    statistics = Statistics()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(lambda: [statistics.count(errors=1) for _ in range(2000)])
    assert statistics.values()["errors"] == 8000
