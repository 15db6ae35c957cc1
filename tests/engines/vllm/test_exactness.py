"""Every way that vLLM cuts its work: with the store it says, token for token, what it says without."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm.engine import Engine, direct, tiered
from tests.engines.vllm.models import prompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS = [prompt(name, tokens) for name, tokens in [("a", 700), ("b", 333), ("c", 64), ("a", 500), ("d", 20)]]


@pytest.fixture(params=[tiered, direct], ids=["tiered", "direct"])
def path(request):
    return request.param


def run(model, config, *prompts, tokens=16, **settings):
    """An engine without the store, then one with it that says the same twice: computed and saved, and loaded.

    Returns how much the counters of vLLM grew in the second turn.
    """
    with Engine(model, **settings) as engine:
        expected = engine.generate(*prompts, tokens=tokens)
    with Engine(model, kv_transfer_config=config, **settings) as engine:
        assert engine.generate(*prompts, tokens=tokens) == expected
        engine.forget()
        before = engine.metrics()
        assert engine.generate(*prompts, tokens=tokens) == expected
        after = engine.metrics()
    return after - before


def test_zeros_in_the_store_change_what_is_said(llama, node):
    """The negative control: the other tests can fail."""
    (one,) = PROMPTS[:1]
    zeroing = {"type": "ZeroingTier", "module_path": "tests.engines.vllm.faults"}
    with Engine(llama, kv_transfer_config=tiered(node.url, **zeroing)) as engine:
        expected = engine.generate(one)
    with Engine(llama, kv_transfer_config=tiered(node.url)) as engine:
        assert engine.generate(one) != expected
        assert engine.metrics()["vllm:kvstore_load_good_blocks"] == len(one) // 32


def test_several_prompts_at_once(llama, node, path):
    grown = run(llama, path(node.url), *PROMPTS)
    # The last token of a prompt is computed in any case, and what a longer prompt brought is not loaded again.
    assert grown["vllm:external_prefix_cache_hits"] + grown["vllm:prefix_cache_hits"] >= 672 + 320 + 63 + 480


def test_chunks_of_several_blocks(llama, node):
    grown = run(llama, tiered(node.url, extra={"blocks_per_chunk": 4}), *PROMPTS)
    assert grown["vllm:kvstore_load_good_blocks"] == 700 // 128 + 333 // 128


def test_chunked_prefill(llama, node, path):
    grown = run(llama, path(node.url), *PROMPTS, max_num_batched_tokens=96, max_num_seqs=4)
    assert grown["vllm:kvstore_load_good_blocks"] >= 700 // 32 + 333 // 32


def test_preemption(llama, node, path):
    """Room for fewer blocks than the prompts and their answers need together."""
    prompts = [prompt(f"preempted {number}", 200) for number in range(4)]
    grown = run(llama, path(node.url), *prompts, tokens=100, num_gpu_blocks_override=30, max_model_len=512)
    assert grown["vllm:num_preemptions"] > 0
    assert grown["vllm:kvstore_load_good_blocks"] >= 4 * (200 // 32)


def test_generated_tokens_too(llama, node):
    (one,) = PROMPTS[:1]
    settings = {"kv_transfer_config": tiered(node.url, extra={"offload_prompt_only": False})}
    with Engine(llama) as engine:
        (said,) = engine.generate(one, tokens=100)
        expected = engine.generate(one + said)
    with Engine(llama, **settings) as engine:
        assert engine.generate(one, tokens=100) == [said]
    with Engine(llama, **settings) as engine:
        assert engine.generate(one + said) == expected
        assert engine.metrics()["vllm:kvstore_load_good_blocks"] > len(one) // 32


def test_two_ranks(llama, node, path):
    grown = run(
        llama, path(node.url), *PROMPTS, tensor_parallel_size=2, environment={"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    )
    assert grown["vllm:kvstore_load_good_blocks"] > 0
    with Engine(llama, kv_transfer_config=path(node.url)) as engine:
        engine.generate(*PROMPTS[:1])
        assert engine.metrics()["vllm:kvstore_lookup_hit_blocks"] == 0  # one rank lays chunks out in another way


def test_fp8(llama, node):
    grown = run(llama, tiered(node.url), *PROMPTS, kv_cache_dtype="fp8")
    assert grown["vllm:kvstore_load_good_blocks"] > 0
    with Engine(llama, kv_transfer_config=tiered(node.url)) as engine:
        engine.generate(*PROMPTS[:1])
        assert engine.metrics()["vllm:kvstore_lookup_hit_blocks"] == 0


def test_sliding_windows(gemma, node, path):
    grown = run(gemma, path(node.url), *PROMPTS)
    assert grown["vllm:external_prefix_cache_hits"] > 0


@pytest.mark.parametrize("order", ["older saves", "newer saves"])
def test_two_versions(llama, node, order):
    other = Path(sys.prefix).parent / "vllm-0.33" / "bin" / "python"
    if not other.exists():
        pytest.skip("there is no environment with vLLM 0.33")
    pythons = [sys.executable, other] if order == "older saves" else [other, sys.executable]
    said = []
    for python in pythons:
        with Engine(llama, python=python, kv_transfer_config=tiered(node.url)) as engine:
            said.append(engine.generate(*PROMPTS))
            loaded = engine.metrics()["vllm:external_prefix_cache_hits"]
    assert said[0] == said[1]
    assert loaded >= 672 + 320
