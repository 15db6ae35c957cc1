"""Two SGLang engines, one after the other, and a prompt that only the first has to compute.

    pip install kvstore sglang
    kvstore serve --memory 4GiB &
    python examples/sglang_hicache.py --model Qwen/Qwen3-0.6B

Each engine is a process of its own. The prompt is token ids, so that any model will do. `--arguments` are more of
SGLang's, as JSON; on a machine without a GPU see docs/connectors/sglang.md. Exits with 1 if the second engine computed
what the first had stored, or said something else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

PROMPT = [100 + 7 * position % 200 for position in range(1000)]
# Saving goes on after the answer; SGLang has no signal for its end.
SAVING_S = 3.0


def engine_arguments(model: str, endpoint: str) -> dict[str, Any]:
    """The flags of docs/connectors/sglang.md, as the Python engine takes them."""
    storage = {
        "backend_name": "kvstore",
        "module_path": "kvstore.connectors.sglang",
        "class_name": "KVStoreHiCache",
        "interface_v1": 1,
        "hicache_storage_pass_prefix_keys": True,
        "endpoint": endpoint,
    }
    return {
        "model_path": model,
        "skip_tokenizer_init": True,
        "enable_cache_report": True,
        "page_size": 64,
        "enable_hierarchical_cache": True,
        "hicache_storage_backend": "dynamic",
        "hicache_storage_backend_extra_config": json.dumps(storage),
        "hicache_storage_prefetch_policy": "wait_complete",
    }


def ask(arguments: dict[str, Any], answer: Connection) -> None:
    """One engine: sends what it generated, how many prompt tokens came out of the store, and the seconds it took."""
    import sglang

    engine = sglang.Engine(**arguments)
    began_s = time.monotonic()
    found = engine.generate(
        input_ids=PROMPT, sampling_params={"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    )
    took_s = time.monotonic() - began_s
    details = found["meta_info"]["cached_tokens_details"] or {}
    time.sleep(SAVING_S)
    answer.send((found["output_ids"], details.get("storage", 0), took_s))
    engine.shutdown()


def main() -> int:
    """Runs the two engines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B")
    parser.add_argument("--endpoint", default="kv://127.0.0.1:7400")
    parser.add_argument("--arguments", type=json.loads, default={}, metavar="JSON")
    options = parser.parse_args()
    arguments = engine_arguments(options.model, options.endpoint) | options.arguments
    answers = []
    for who in ("the first engine", "the second"):
        ours, theirs = multiprocessing.Pipe()
        engine = multiprocessing.get_context("spawn").Process(target=ask, args=(arguments, theirs))
        engine.start()
        theirs.close()
        try:
            tokens, stored, took_s = ours.recv()
        except EOFError:
            sys.exit(f"{who} failed")
        engine.join()
        print(f"{who}: {took_s:.2f} s, {stored} of {len(PROMPT)} prompt tokens loaded: {tokens}", flush=True)
        answers.append((tokens, stored))
    (first, _), (second, stored) = answers
    return int(not stored or second != first)


if __name__ == "__main__":
    sys.exit(main())
