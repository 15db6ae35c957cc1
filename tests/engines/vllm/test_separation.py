"""Prompts that must not share blocks, in a real engine: vLLM hashes salts and adapters, so they are in the names."""

import json

import pytest

pytest.importorskip("vllm")

import torch
from safetensors.torch import save_file

from tests.engines.vllm.engine import Engine, tiered
from tests.engines.vllm.models import prompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPT = prompt("separate", 320)
_RANK = 8


@pytest.fixture
def engine(llama, node):
    with Engine(llama, kv_transfer_config=tiered(node.url), enable_lora=True, max_lora_rank=_RANK) as running:
        yield running


@pytest.fixture
def adapters(tmp_path):
    return [["one", 1, str(write_adapter(tmp_path / "one", 1))], ["two", 2, str(write_adapter(tmp_path / "two", 2))]]


def write_adapter(folder, seed):
    """For the value projections of the small Llama."""
    folder.mkdir()
    source = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(4):
        name = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(_RANK, 128, generator=source) * 0.2
        weights[f"{name}.lora_B.weight"] = torch.randn(64, _RANK, generator=source) * 0.2
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": _RANK, "lora_alpha": _RANK, "target_modules": ["v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def hits(engine, **options):
    """What the engine says after it has forgotten everything, and how many blocks it found in the store."""
    engine.forget()
    before = engine.metrics()["vllm:kvstore_lookup_hit_blocks"]
    (said,) = engine.generate(PROMPT, **options)
    return said, engine.metrics()["vllm:kvstore_lookup_hit_blocks"] - before


def test_a_salt_is_a_store_of_its_own(engine):
    said, found = hits(engine)
    assert found == 0
    assert hits(engine, salt="a") == (said, 0)
    assert hits(engine, salt="b") == (said, 0)
    for options in ({}, {"salt": "a"}, {"salt": "b"}):
        assert hits(engine, **options) == (said, len(PROMPT) // 32)


def test_an_adapter_is_a_store_of_its_own(engine, adapters):
    said = []
    for options in ({}, {"lora": adapters[0]}, {"lora": adapters[1]}):
        one, found = hits(engine, **options)
        assert found == 0
        said.append(one)
    assert len({tuple(one) for one in said}) == 3
    for one, options in zip(said, ({}, {"lora": adapters[0]}, {"lora": adapters[1]}), strict=True):
        assert hits(engine, **options) == (one, len(PROMPT) // 32)
