"""A whole SGLang in a process of its own: `python -m tests.engines.sglang.engine ARGUMENTS`, which are JSON.

It answers each line of standard input, the arguments of `Engine.generate` as JSON, with a line of standard output.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from tests.engines.sglang import SHIM

__all__ = ["PAGE_SIZE", "Answer", "EngineProcess"]

PAGE_SIZE = 16
_ROOT = Path(__file__).parents[3]
_START_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_MARK = "answer: "

_ON_A_CPU = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "dtype": "float32",
    "disable_cuda_graph": True,
    "page_size": PAGE_SIZE,
    "max_total_tokens": 4096,
    "mem_fraction_static": 0.3,
    "random_seed": 1,
    "skip_tokenizer_init": True,
    "enable_cache_report": True,
    "log_level": "warning",
}
_WITH_HICACHE = {
    "enable_hierarchical_cache": True,
    "hicache_ratio": 2.0,
    "hicache_io_backend": "direct",
    "hicache_mem_layout": "layer_first",
    "hicache_storage_backend": "dynamic",
    "hicache_storage_prefetch_policy": "wait_complete",
}
_GREEDY = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


class Answer:
    """What the engine generated, and where it had the prompt's KV from."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.tokens: list[int] = found["output_ids"]
        details = found["meta_info"]["cached_tokens_details"] or {}
        self.stored_tokens: int = details.get("storage", 0)
        self.backend: str | None = details.get("storage_backend")


class EngineProcess:
    """Ends with the `with` statement. Without an endpoint it has no hierarchical cache at all."""

    def __init__(
        self,
        model: Path,
        log: Path,
        endpoint: str | None = None,
        *,
        module: str = "kvstore.connectors.sglang",
        name: str = "KVStoreHiCache",
        settings: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        arguments = {"model_path": str(model), **_ON_A_CPU, **arguments}
        if endpoint is not None:
            backend = {"backend_name": "kvstore", "module_path": module, "class_name": name, "interface_v1": 1}
            extra = {**backend, "endpoint": endpoint, "prefetch_threshold": PAGE_SIZE, **(settings or {})}
            arguments |= {**_WITH_HICACHE, "hicache_storage_backend_extra_config": json.dumps(extra)}
        ranks = arguments.get("tp_size", 1)
        cores = sorted(os.sched_getaffinity(0))
        binding = {"SGLANG_CPU_OMP_THREADS_BIND": "|".join(str(cores[rank % len(cores)]) for rank in range(ranks))}
        paths = [str(SHIM), str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self._log = log
        with log.open("ab") as opened:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=opened,
                cwd=_ROOT,
                text=True,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
                | (binding if ranks > 1 else {}),
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._next(_START_TIMEOUT_S)

    def generate(self, input_ids: list[int], **options: Any) -> Answer:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"input_ids": input_ids, **options}) + "\n")
        self._process.stdin.flush()
        return Answer(json.loads(self._next(_ANSWER_TIMEOUT_S)))

    @property
    def log(self) -> str:
        """All that the engine has said."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ending: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        finally:
            self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                self._lines.put(line.removeprefix(_MARK))
        self._lines.put("")

    def _next(self, timeout_s: float) -> str:
        line = self._lines.get(timeout=timeout_s)
        assert line, f"the engine has ended:\n{self.log[-4000:]}"
        return line


def _main(arguments: str) -> None:
    import sglang

    engine = sglang.Engine(**json.loads(arguments))
    print(f"{_MARK}ready", flush=True)
    for line in sys.stdin:
        found = engine.generate(sampling_params=_GREEDY, **json.loads(line))
        print(_MARK + json.dumps(found), flush=True)
    engine.shutdown()


if __name__ == "__main__":
    _main(*sys.argv[1:])
