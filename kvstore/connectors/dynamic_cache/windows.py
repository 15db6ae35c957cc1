"""Blocks between a cache and a window: one strided copy a tensor, bit for bit, whatever the element type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Layers", "copy", "pairs", "raw"]

Layers: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"  # keys and values, each (1, KV heads, tokens, head size)


def pairs(layers: Layers, window: torch.Tensor, first_token: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each tensor of the cache: its tokens that `window` has room for, and that room.

    Both are views of shape (blocks, KV heads, block size, head size): copying one onto the other packs or unpacks.
    """
    blocks, _, _, kv_heads, block_size, head_size = window.shape
    for index, layer in enumerate(layers):
        for pair, tensor in enumerate(layer):
            tokens = tensor[0, :, first_token : first_token + blocks * block_size]
            yield tokens.view(kv_heads, blocks, block_size, head_size).transpose(0, 1), window[:, index, pair]


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copies bit for bit between tensors of equal shape and element type, on any devices."""
    if target.is_cpu and source.is_cpu:
        # One thread is about as fast as memory. Torch takes them all for each tensor, and on a busy machine they wait
        # for one another many times as long as they copy.
        np.copyto(raw(target), raw(source))
    else:
        target.detach().copy_(source.detach())


def raw(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of a CPU tensor, the last axis that many times longer, without a copy: NumPy has no bfloat16."""
    raw: npt.NDArray[np.uint8] = tensor.detach().view(torch.uint8).numpy()
    return raw
