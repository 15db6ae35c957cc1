"""One real engine saves, another loads, and both say what an engine without the store says."""

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm.engine import Engine, tiered
from tests.engines.vllm.models import prompt

PROMPT = prompt("round trip", 500)
CHUNKS, CHUNK_BYTES = 500 // 32, 64 << 10


def test_an_engine_goes_on_where_another_was(llama, node):
    with Engine(llama) as engine:
        (expected,) = engine.generate(PROMPT)
    with Engine(llama, kv_transfer_config=tiered(node.url)) as engine:
        assert engine.generate(PROMPT) == [expected]
    counters = node.wait_for_counters("the chunks are there", blocks=CHUNKS, hits=0)
    assert counters["bytes_received"] == CHUNKS * CHUNK_BYTES
    # As in production, the scheduler and the connector in a process of their own.
    apart = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with Engine(llama, kv_transfer_config=tiered(node.url), environment=apart) as engine:
        assert engine.generate(PROMPT) == [expected]
        metrics = engine.metrics()
    assert metrics["vllm:external_prefix_cache_hits"] == CHUNKS * 32
    assert metrics["vllm:kvstore_load_good_blocks"] == CHUNKS
    assert node.counters["bytes_sent"] == CHUNKS * CHUNK_BYTES
