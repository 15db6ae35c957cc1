"""Hugging Face transformers with the store: what one process has read, another need not read again.

    python examples/transformers_prefix.py                 # a store inside this process
    python examples/transformers_prefix.py --node kv://127.0.0.1:7400   # a node: run it twice
    python examples/transformers_prefix.py --tokens 4000

A small Llama with seeded random weights, so there is nothing to download: every process builds the same one. Prints how
much of the prompt came out of the store and what the model said; exits with 1 if that is not what it says without the
store.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import kvstore
from kvstore.connectors.transformers import TransformersConnector

SEED = 7
NEW_TOKENS = 16


def build_model() -> LlamaForCausalLM:
    """In float32, where a prompt read in two parts gives the same tokens as one read at once."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        initializer_range=0.08,  # so large that wrong KV changes what the model says
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config).float().eval()


def answer(model: LlamaForCausalLM, ids: torch.Tensor, cache: DynamicCache) -> list[int]:
    """Reads what of the prompt is not in the cache yet, and continues it."""
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return output[0, ids.shape[1] :].tolist()


def answer_with_store(connector: TransformersConnector, model: LlamaForCausalLM, ids: torch.Tensor) -> list[int]:
    """As `answer`, with what the store has of the prompt; what it has not goes there afterwards."""
    started_s = time.perf_counter()
    prefix = connector.load_prefix(ids)
    tokens = answer(model, ids, prefix.cache)
    seconds = time.perf_counter() - started_s
    report = connector.save_prefix(prefix.cache, ids)
    print(
        f"{prefix.tokens} of {ids.shape[1]} tokens came from the store; answered after {seconds:.2f} s;"
        f" {report.blocks_stored} blocks saved"
    )
    return tokens


def main() -> int:
    """Asks twice, each time as an engine that knows nothing but the store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--node", default="embedded://?memory=256MiB", help="address of the store")
    parser.add_argument("--tokens", type=int, default=2000, help="length of the prompt")
    options = parser.parse_args()

    model = build_model()
    ids = torch.randint(320, (1, options.tokens), generator=torch.Generator().manual_seed(SEED))
    expected = answer(model, ids, DynamicCache(config=model.config))
    with kvstore.connect(options.node) as store:
        connector = TransformersConnector(store, model, revision=f"seed {SEED}", model_name="example")
        said = [answer_with_store(connector, model, ids) for _ in range(2)]
    print(f"the model said {expected}")
    if said != [expected, expected]:
        print(f"with the store it said {said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
