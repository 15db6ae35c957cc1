"""A small model with seeded random weights, written where SGLang can load it, and prompts for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["prompt", "write_llama"]

_VOCABULARY = 320


def write_llama(folder: Path, *, seed: int = 1) -> Path:
    """Four layers of 128, four query and two KV heads of 32, float32: 2 KiB of KV a token.

    Weights are spread wider than those of training, so that wrong KV changes the very next token.
    """
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.08,
        tie_word_embeddings=False,
        dtype="float32",
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder


def prompt(seed: int, tokens: int = 320) -> list[int]:
    return np.random.default_rng(seed).integers(3, _VOCABULARY, tokens).tolist()
