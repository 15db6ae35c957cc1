"""A small model with seeded random weights, written where SGLang can load it, and prompts for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.engines import models

__all__ = ["prompt", "write_llama"]


def write_llama(folder: Path, *, seed: int = 1) -> Path:
    """That of all engines, with the token ids that end a text, which SGLang wants to know."""
    return models.write_llama(
        folder, seed=seed, max_position_embeddings=2048, eos_token_id=2, bos_token_id=1, dtype="float32"
    )


def prompt(seed: int, tokens: int = 320) -> list[int]:
    return np.random.default_rng(seed).integers(3, models.VOCABULARY, tokens).tolist()
