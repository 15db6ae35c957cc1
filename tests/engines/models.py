"""A small Llama with seeded random weights, written where engines can load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["SPREAD", "VOCABULARY", "write_llama"]

VOCABULARY = 320
# Above the 0.02 of training: wrong KV then changes the very next token.
SPREAD = 0.08


def write_llama(folder: Path, *, seed: int = 1, **changes: Any) -> Path:
    """Four layers of 128, four query and two KV heads of 32, float32: 2 KiB of KV a token; `changes` are of that."""
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 8192,
        "initializer_range": SPREAD,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        "bos_token_id": None,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **(sizes | changes))).float().save_pretrained(folder)
    return folder
