"""A model with several cache groups, and prompts of token ids."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from tests.engines.models import SPREAD, VOCABULARY

__all__ = ["prompt", "write_gemma"]


def write_gemma(folder: Path, *, seed: int = 1) -> Path:
    """Six layers of which only the last sees the whole prompt and the others a window of 64 tokens: several groups."""
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=8192,
        sliding_window=64,
        initializer_range=SPREAD,
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    Gemma3ForCausalLM(config).float().save_pretrained(folder)
    return folder


def prompt(name: str, tokens: int) -> list[int]:
    """Token ids that no other name gives; a shorter prompt of the name is a prefix of a longer one."""
    source = random.Random(name)
    return [source.randrange(VOCABULARY) for _ in range(tokens)]
