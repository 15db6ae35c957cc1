"""The tier step by step: what one job, one lookup and one shutdown do when the store does not play along."""

import contextlib

import numpy as np
import pytest

pytest.importorskip("vllm")

from vllm.v1.kv_offload.base import LookupResult, ScheduleEndContext

from kvstore.errors import ConfigError
from tests.connectors.driver import Identity
from tests.engines.vllm.driver import TierDriver
from tests.node_process import wait_until

PAGES = 12
QUICK = {"lookup_timeout_ms": 300, "load_timeout_ms": 300, "save_timeout_ms": 300}


@pytest.fixture
def connect(node):
    with contextlib.ExitStack() as ending:
        yield lambda **settings: ending.enter_context(TierDriver(node.url, Identity(), settings))


def step(tier, *new_requests):
    """The end of a scheduler step and the beginning of the next."""
    tier.on_schedule_end(ScheduleEndContext(new_req_ids=new_requests, preempted_req_ids=()))
    return list(tier.get_finished_jobs())


def look_up(tier, job):
    """The answers for a job's request, which stays open."""
    answers = []

    def are_known():
        step(tier)
        answers[:] = [tier.lookup(key, job.req_context) for key in job.keys]
        return LookupResult.RETRY not in answers

    wait_until(are_known, "all lookups are answered")
    return answers


def results_of(tier, count):
    results = []

    def are_there():
        results.extend(tier.get_finished_jobs())
        return len(results) >= count

    wait_until(are_there, "the jobs have ended")
    assert len(results) == count
    return {result.job_id: result for result in results}


def test_the_requests_of_a_step_are_asked_about_at_once(connect):
    driver = connect()
    driver.save(1, PAGES)
    jobs = [driver.job(prompt, PAGES, is_promotion=True) for prompt in (1, 2, 3)]
    for job in jobs:
        assert {driver.tier.lookup(key, job.req_context) for key in job.keys} == {LookupResult.RETRY}
    assert [set(look_up(driver.tier, job)) for job in jobs] == [
        {LookupResult.HIT},
        {LookupResult.MISS},
        {LookupResult.MISS},
    ]
    stats = driver.tier.get_stats().data["data"]
    assert stats["vllm:kvstore_lookup_blocks"] == {(): 3 * PAGES}
    assert stats["vllm:kvstore_lookup_hit_blocks"] == {(): PAGES}
    assert driver.tier.get_stats() is None  # counters say what is new


def test_a_request_that_ends_while_the_store_is_asked(connect):
    driver = connect()
    job = driver.job(1, PAGES, is_promotion=True)
    driver.tier.lookup(job.keys[0], job.req_context)
    step(driver.tier)
    driver.tier.on_request_finished(job.req_context)
    driver.save(2, PAGES)
    assert driver.lookup(2, PAGES) == PAGES


def test_what_was_lost_since_the_lookup_is_not_tried_for_ever(connect, node):
    driver = connect()
    driver.save(1, PAGES)
    job = driver.job(1, PAGES, is_promotion=True)
    assert set(look_up(driver.tier, job)) == {LookupResult.HIT}
    wait_until(lambda: node.evict(1 << 40) == 0 and node.counters["blocks"] == 0, "the pages are evicted")
    driver.tier.submit_load(job)
    result = results_of(driver.tier, 1)[job.job_id]
    assert not result.success
    assert list(result.successful_keys) == []
    assert set(look_up(driver.tier, job)) == {LookupResult.MISS}


def test_a_part_that_can_be_loaded_is(connect):
    driver = connect()
    driver.save(1, 5)
    job = driver.job(1, PAGES, is_promotion=True)
    driver.tier.submit_load(job)
    result = results_of(driver.tier, 1)[job.job_id]
    assert not result.success
    assert list(result.successful_keys) == job.keys[:5]
    assert look_up(driver.tier, job)[5:] == [LookupResult.MISS] * (PAGES - 5)


def test_saves_that_pile_up_are_dropped_and_counted(connect, node):
    driver = connect(**QUICK, save_bytes="1MiB")
    jobs = [driver.job(prompt, 30, is_promotion=False) for prompt in (1, 2)]  # 600 KiB each
    node.freeze()
    try:
        for job in jobs:
            driver.tier.submit_store(job)
        results = results_of(driver.tier, 2)
    finally:
        node.thaw()
    assert not any(result.success for result in results.values())
    assert driver.tier.get_stats().data["data"]["vllm:kvstore_save_dropped_blocks"] == {(): 30}


@pytest.mark.parametrize("verb", ["submit_load", "submit_store"])
def test_draining_ends_though_the_node_does_not_answer(connect, node, verb):
    driver = connect(**QUICK)
    job = driver.job(1, PAGES, is_promotion=verb == "submit_load")
    node.freeze()
    try:
        getattr(driver.tier, verb)(job)
        driver.tier.drain_jobs()
    finally:
        node.thaw()
    (result,) = driver.tier.get_finished_jobs()
    assert (result.job_id, result.success) == (job.job_id, False)


def test_shutdown_lets_go_of_memory_whatever_is_under_way(connect, node):
    driver = connect()
    rows = np.zeros((4, 20_480), np.int8)
    view = memoryview(rows)
    driver.close()
    tier = type(driver.tier)(driver.tier._offloading_spec, view, "KVStoreTier", endpoint=node.url)
    job = driver.job(1, 2, is_promotion=True)
    job.chunk_ids = np.array([1, 3], np.int32)
    node.freeze()
    try:
        tier.on_new_request(job.req_context)
        tier.submit_load(job)
        tier.shutdown()
    finally:
        node.thaw()
    (result,) = tier.get_finished_jobs()
    assert not result.success
    tier.shutdown()
    view.release()  # fails while anything of the tier still holds it


def test_a_hit_that_is_slower_than_computing_is_left_alone(connect):
    driver = connect()
    driver.save(1, PAGES)
    gate = driver.tier._store.gate
    for _ in range(5):
        gate.note_load(PAGES * 20_480, 1.0)
        gate.note_prefill(PAGES * 16, 0.001)
    assert driver.lookup(1, PAGES) == 0
    stats = driver.tier.get_stats().data["data"]
    assert stats["vllm:kvstore_gate_skipped"] == {(): 1}
    ungated = connect(cost_gate=False)
    assert ungated.lookup(1, PAGES) == PAGES


def test_how_fast_the_engine_computes_is_learnt_from_what_it_saves(connect):
    driver = connect()
    assert driver.tier._store.gate.prefill_seconds(1) is None
    job = driver.job(1, PAGES, is_promotion=False)
    step(driver.tier, job.req_context.req_id)
    driver.tier.submit_store(job)
    assert driver.tier._store.gate.prefill_seconds(1) > 0


def test_all_metrics_are_announced(connect):
    driver = connect()
    driver.save(1, PAGES)
    driver.load(1, PAGES)
    announced = type(driver.tier).build_metric_definitions({})
    assert set(driver.tier.get_stats().data["data"]) <= set(announced)


def test_settings_that_do_not_exist_are_refused(node):
    with pytest.raises(ConfigError, match="endpiont"):
        TierDriver(node.url, Identity(), {"endpiont": "kv://127.0.0.1:1"})
