"""A vLLM engine in a process of its own, told what to do over a pipe: `Engine(python, **settings)`.

Lines of JSON go down and up two descriptors, because an engine prints what it likes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

__all__ = ["Engine", "direct", "tiered"]

_ROOT = Path(__file__).parents[3]
_START_S, _ANSWER_S, _STOP_S = 120.0, 90.0, 30.0
_TIER = {"type": "KVStoreTier", "module_path": "kvstore.connectors.vllm"}


def tiered(endpoint: str, *, extra: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """`kv_transfer_config` with the store behind 64 MiB of host memory; the same as on a GPU but for `spec_name`.

    `settings` are those of the tier, `extra` those of `kv_connector_extra_config`.
    """
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "CPUTieringSpec",
            "spec_module_path": "tests.engines.vllm.cpu_tiering",
            "cpu_bytes_to_use": 64 << 20,
            "secondary_tiers": [{**_TIER, "endpoint": endpoint, "cost_gate": False, **settings}],
            **(extra or {}),
        },
    }


def direct(endpoint: str, *, extra: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """`kv_transfer_config` without a tier in host memory; `settings` are those of the connector."""
    return {
        "kv_connector": "KVStoreConnector",
        "kv_connector_module_path": "kvstore.connectors.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "spec_name": "KVStoreOffloadingSpec",
            "spec_module_path": "kvstore.connectors.vllm",
            "kvstore": {"endpoint": endpoint, **settings},
            **(extra or {}),
        },
    }


class Engine:
    """`settings` are those of `vllm.LLM`. A context manager; every call has a deadline."""

    def __init__(
        self,
        model: Path,
        *,
        python: Path | str = sys.executable,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self._settings = {"model": str(model), **settings}
        self._python = str(python)
        self._environment = environment or {}

    def __enter__(self) -> Self:
        down, self._down = os.pipe()
        self._up, up = os.pipe()
        self._read = b""
        self._process = subprocess.Popen(
            [self._python, "-m", __name__, str(down), str(up)],
            cwd=_ROOT,
            pass_fds=(down, up),
            stdin=subprocess.DEVNULL,
            env=os.environ
            | {
                "VLLM_TARGET_DEVICE": "cpu",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_HOST_IP": "127.0.0.1",
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "2",
            }
            | self._environment,
        )
        os.close(down)
        os.close(up)
        self._write(self._settings)
        self._answer(_START_S)
        return self

    def __exit__(self, *ending: object) -> None:
        os.close(self._down)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            os.close(self._up)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def begin(self, *prompts: list[int], tokens: int = 16, **options: Any) -> None:
        """Begins to generate; `end` has what came of it."""
        self._write({"prompts": prompts, "tokens": tokens, **options})

    def end(self) -> list[list[int]]:
        """The token ids that were generated, a list a prompt."""
        answer = self._answer(_ANSWER_S)
        return answer["tokens"]

    def generate(self, *prompts: list[int], tokens: int = 16, **options: Any) -> list[list[int]]:
        self.begin(*prompts, tokens=tokens, **options)
        return self.end()

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of `vllm.LLM`."""
        self._write({"call": method, "arguments": arguments})
        return self._answer(_ANSWER_S)["result"]

    def abort(self, prompt: list[int], steps: int) -> None:
        """Gives a request up after so many steps of the engine, and lets the engine come to rest."""
        self._write({"abort": prompt, "steps": steps})
        self._answer(_ANSWER_S)

    def forget(self) -> None:
        """Empties the engine's own caches, in device and host memory."""
        assert self.call("reset_prefix_cache", False, True)

    def metrics(self) -> Counter[str]:
        """vLLM's counters and gauges, summed over their labels; those that vLLM has not met yet are 0."""
        self._write({"metrics": True})
        return Counter(self._answer(_ANSWER_S)["metrics"])

    def _write(self, message: object) -> None:
        os.write(self._down, json.dumps(message).encode() + b"\n")

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._up], [], [], timeout_s)
            some = os.read(self._up, 1 << 20) if ready else b""
            assert some, f"the engine {'has ended' if ready else 'does not answer'}"
            self._read += some
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


def _main(down: int, up: int) -> None:
    with os.fdopen(down) as orders, os.fdopen(up, "w", buffering=1) as answers:
        from vllm import LLM

        settings = {
            "dtype": "float32",
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "max_model_len": 4096,
            "block_size": 32,
            "disable_log_stats": False,
            "seed": 0,
        } | json.loads(orders.readline())
        llm = LLM(**settings)
        print(json.dumps({"ready": True}), file=answers)
        for line in orders:
            try:
                answer = _obey(llm, json.loads(line))
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), file=answers)
        with contextlib.suppress(AttributeError):
            llm.llm_engine.engine_core.shutdown()


def _obey(llm: Any, order: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    if "metrics" in order:
        found: dict[str, float] = {}
        for metric in llm.get_metrics():
            if hasattr(metric, "value"):
                found[metric.name] = found.get(metric.name, 0) + metric.value
        return {"metrics": found}
    if "abort" in order:
        return _abort(llm.llm_engine, order["abort"], order["steps"])
    if "call" in order:
        return {"result": getattr(llm, order["call"])(*order["arguments"])}
    prompts = [{"prompt_token_ids": ids} for ids in order["prompts"]]
    if "salt" in order:
        prompts = [{**one, "cache_salt": order["salt"]} for one in prompts]
    lora = LoRARequest(*order["lora"]) if "lora" in order else None
    sampling = SamplingParams(temperature=0.0, max_tokens=order["tokens"], ignore_eos=True, detokenize=False)
    outputs = llm.generate(prompts, sampling, lora_request=lora, use_tqdm=False)
    return {"tokens": [list(output.outputs[0].token_ids) for output in outputs]}


def _abort(engine: Any, prompt: list[int], steps: int) -> dict[str, Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True, detokenize=False)
    engine.add_request("given up", {"prompt_token_ids": prompt}, sampling)
    for _ in range(steps):
        engine.step()
    engine.abort_request(["given up"])
    while engine.has_unfinished_requests():
        engine.step()
    return {"aborted": True}


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
