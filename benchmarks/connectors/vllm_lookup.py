"""What a lookup costs vLLM's scheduler, beside the goal of 50 us and 0.2 us a block.

PYTHON_WITH_VLLM -m benchmarks.connectors.vllm_lookup

Every call that vLLM makes for a request of so many blocks is timed: the scan that asks (each block answers RETRY), the
end of the step that sends the questions, the poll that takes the answers, and the scan that finds them. The round trip
between, during which the engine computes for others, is not the scheduler's time. Fresh requests, hits, medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ScheduleEndContext

import kvstore
from tests.connectors.driver import Identity
from tests.engines.vllm.driver import TierDriver
from tests.support.node import Node

_BLOCKS = (1, 16, 64, 125, 500, 1000)
_ROUNDS = 50
_BASE_US, _BLOCK_US = 50.0, 0.2
_DEADLINE_S = 5.0


def _one_request(driver: TierDriver, prompt: int, blocks: int) -> list[float]:
    """Microseconds of asking, sending, taking and finding."""
    tier = driver.tier
    job = driver.job(prompt, blocks, is_promotion=True)
    context = job.req_context
    times = [time.perf_counter()]
    answers = [tier.lookup(key, context) for key in job.keys]
    times.append(time.perf_counter())
    tier.on_schedule_end(ScheduleEndContext((), ()))
    times.append(time.perf_counter())
    assert set(answers) == {LookupResult.RETRY}

    end_s = time.monotonic() + _DEADLINE_S
    while True:
        since_s = time.perf_counter()
        tier.get_finished_jobs()
        took_s = time.perf_counter() - since_s
        if tier.lookup(job.keys[0], context) is not LookupResult.RETRY:
            break
        assert time.monotonic() < end_s, "the node does not answer"
    since_s = time.perf_counter()
    answers = [tier.lookup(key, context) for key in job.keys]
    found_s = time.perf_counter() - since_s
    assert set(answers) == {LookupResult.HIT}
    tier.on_request_finished(context)
    asked_s, sent_s = times[1] - times[0], times[2] - times[1]
    return [seconds * 1e6 for seconds in (asked_s, sent_s, took_s, found_s)]


def main() -> None:
    """Prints a row for each number of blocks."""
    with tempfile.TemporaryDirectory() as folder, Node(Path(folder)) as node:
        driver = TierDriver(node.url, Identity(), {"lookup_timeout_ms": 2000})
        with kvstore.connect(node.url) as client:
            keys = driver.tier.namespace.keys(driver.job(1, max(_BLOCKS), is_promotion=True).keys)
            assert client.put(keys, np.zeros((len(keys), 4096), np.uint8)).all_ok
        print("blocks    ask   send   take   find  all (us)   goal")
        for blocks in _BLOCKS:
            rounds = [_one_request(driver, 1, blocks) for _ in range(_ROUNDS)]
            medians = [statistics.median(one[part] for one in rounds) for part in range(4)]
            whole = statistics.median(sum(one) for one in rounds)
            goal = _BASE_US + _BLOCK_US * blocks
            print(f"{blocks:6d} " + " ".join(f"{one:6.1f}" for one in medians) + f" {whole:10.1f} {goal:6.1f}")
        driver.close()


if __name__ == "__main__":
    main()
