"""TensorRT-LLM with the store: two engines, one after the other, read the same prompt; the second finds its KV.

    kvstore serve &
    export KVSTORE_CONNECTOR_ENDPOINT=kv://127.0.0.1:7400
    python examples/tensorrt_llm_prefix.py --model TinyLlama/TinyLlama-1.1B-Chat-v1.0

Needs a GPU and TensorRT-LLM 1.1 or later. The connector was tested against a stand-in for that engine, not on it (see
docs/connectors/tensorrt_llm.md): compare the two answers before you rely on it, which this script does. Exits with 1 if
they differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys

PROMPT = "The history of computing, told at length. " * 60


def answer(model: str) -> list[int]:
    """What an engine of its own process says to the prompt, as token ids."""
    tensorrt_llm = importlib.import_module("tensorrt_llm")
    llm_args = importlib.import_module("tensorrt_llm.llmapi.llm_args")
    llm = tensorrt_llm.LLM(
        model=model,
        backend="pytorch",
        kv_connector_config=llm_args.KvCacheConnectorConfig(
            connector_module="kvstore.connectors.tensorrt_llm",
            connector_scheduler_class="KVStoreScheduler",
            connector_worker_class="KVStoreWorker",
        ),
    )
    try:
        output = llm.generate(PROMPT, tensorrt_llm.SamplingParams(max_tokens=32, temperature=0.0))
        return list(output.outputs[0].token_ids)
    finally:
        llm.shutdown()


def main() -> int:
    """Asks twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="name or folder of a model that TensorRT-LLM supports")
    options = parser.parse_args()
    if importlib.util.find_spec("tensorrt_llm") is None:
        print("TensorRT-LLM is not installed: see https://nvidia.github.io/TensorRT-LLM", file=sys.stderr)
        return 2
    if not os.environ.get("KVSTORE_CONNECTOR_ENDPOINT"):
        print("set KVSTORE_CONNECTOR_ENDPOINT to the address of a node, such as kv://127.0.0.1:7400", file=sys.stderr)
        return 2
    said = []
    for _ in range(2):
        with multiprocessing.get_context("spawn").Pool(1) as process:
            said.append(process.apply(answer, (options.model,)))
    print(f"without the store's KV {said[0]}\nwith it                {said[1]}")
    return 0 if said[0] == said[1] else 1


if __name__ == "__main__":
    sys.exit(main())
