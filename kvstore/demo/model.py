"""A small Llama with seeded random weights: nothing to download, and every process builds the same one."""

from __future__ import annotations

from collections.abc import Sequence

import blake3
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

__all__ = ["build_model", "prefill", "weights_digest"]

# Above the 0.02 that training starts from: random layers then depend so strongly on their input that wrong KV shows in
# the very first logits instead of vanishing in the residual stream.
_INITIALIZER_RANGE = 0.08


def build_model(seed: int) -> LlamaForCausalLM:
    """Eight layers of 384 with six query heads and two KV heads of 64: 8 KiB of KV a token, 128 KiB a block of 16.

    In float32, where one prefill and the same in two parts differ by a few units in the sixth digit, so that their
    greedy tokens can be compared. In bfloat16 they could not.
    """
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=384,
        intermediate_size=1056,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=16384,
        initializer_range=_INITIALIZER_RANGE,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model: LlamaForCausalLM = LlamaForCausalLM(config).float().eval()
    return model


def weights_digest(model: LlamaForCausalLM) -> str:
    """BLAKE3 of all parameters by name: the revision of a model that no registry has numbered."""
    digest = blake3.blake3()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest(length=16)


def prefill(model: LlamaForCausalLM, tokens: Sequence[int], cache: DynamicCache) -> torch.Tensor:
    """Computes `tokens` behind what `cache` holds and adds them to it.

    Returns the logits after the last token, float32 of shape (vocabulary,).
    """
    with torch.inference_mode():
        ids = torch.tensor([list(tokens)], dtype=torch.long)
        logits: torch.Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[0, -1]
