"""One inference engine, in a process of its own: `python -m kvstore.demo.engine`, which `kvstore.demo.run` starts.

Tasks come as lines on standard input and answers go as lines to standard output (`kvstore.demo.messages`); the end of
the input ends the process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from transformers import DynamicCache

import kvstore
from kvstore.connectors.transformers import TransformersConnector
from kvstore.demo.messages import Answer, Ready, Task, Transfer
from kvstore.demo.model import build_model, prefill, weights_digest
from kvstore.demo.prompt import prompt_tokens

__all__ = ["Engine", "main"]

_WARM_UP_TOKENS = 64


class Engine:
    """A model, the text, and a store to share KV through. `report_progress` is told fractions of the task in hand."""

    def __init__(self, options: argparse.Namespace, report_progress: Callable[[float], None]) -> None:
        torch.set_num_threads(options.threads)
        self._options = options
        self._report_progress = report_progress
        self._prompt = prompt_tokens(options.prompt_tokens)
        self._model = build_model(options.seed)
        self._answers = 0
        self._work_left = self._work_total = 0
        self._tokens_in_flight = 0
        for layer in self._model.model.layers:
            layer.register_forward_hook(self._layer_done)
        # The first call of a process sets up threads and kernels; it belongs to neither of the times that are compared.
        self._prefill(self._prompt[:_WARM_UP_TOKENS], DynamicCache(config=self._model.config))
        self._revision = weights_digest(self._model)
        self._connect(options.store)

    def describe(self) -> Ready:
        """Who this is and how it is connected."""
        client = self._store.stats()["client"] or {}
        return Ready(layers=self._model.config.num_hidden_layers, lane=client["lane"], endpoint=client["endpoint"])

    def answer(self, task: Task) -> Answer:
        """Reads the text as `task` says, and continues it."""
        if task.node:
            self._store.close()
            self._connect(task.node)
        layers, prompt, block_size = self._model.config.num_hidden_layers, self._prompt, self._options.block_size
        self._work_left = self._work_total = (len(prompt) + self._options.new_tokens - 1) * layers
        disk_blocks_before = self._disk_blocks() if task.use_store else 0
        started = time.perf_counter()
        cache, match_seconds, loaded, saved = DynamicCache(config=self._model.config), 0.0, Transfer(), Transfer()
        if task.use_store:
            cache, match_seconds, loaded = self._load()
            if task.zero_loaded and loaded.blocks:
                for keys, values, *_ in cache:
                    keys.zero_()
                    values.zero_()
            boundary = (len(prompt) - 1) // block_size * block_size
            if cache.get_seq_length() < boundary:
                self._prefill(prompt[cache.get_seq_length() : boundary], cache)
            if task.save:
                saved = self._save(cache)
        logits = [self._prefill(prompt[cache.get_seq_length() :], cache)]
        tokens = [int(logits[-1].argmax())]
        first_token_seconds = time.perf_counter() - started
        while len(tokens) < self._options.new_tokens:
            logits.append(self._prefill(tokens[-1:], cache))
            tokens.append(int(logits[-1].argmax()))
        if loaded.blocks:
            loaded = replace(loaded, disk_blocks=self._disk_blocks() - disk_blocks_before)
        return Answer(
            tokens=tokens,
            logits_file=self._write(torch.stack(logits).numpy()),
            first_token_seconds=first_token_seconds,
            match_seconds=match_seconds,
            loaded=loaded,
            saved=saved,
        )

    def _connect(self, address: str) -> None:
        self._store = kvstore.connect(address, timeout_ms=self._options.timeout_ms, lane=self._options.lane)
        self._connector = TransformersConnector(
            self._store, self._model, revision=self._revision, block_size=self._options.block_size
        )

    def _load(self) -> tuple[DynamicCache, float, Transfer]:
        started = time.perf_counter()
        prefix = self._connector.load_prefix(self._prompt)
        seconds = time.perf_counter() - started
        self._work_left -= prefix.tokens * self._model.config.num_hidden_layers
        transfer = Transfer(blocks=prefix.blocks, bytes=prefix.bytes, move_seconds=prefix.get_seconds, seconds=seconds)
        return prefix.cache, prefix.match_seconds, transfer

    def _disk_blocks(self) -> int:
        """How many blocks the node has read from its disk since it started; 0 where there is no answer."""
        return int((self._store.stats()["node"] or {}).get("nvme_read_blocks", 0))

    def _save(self, cache: DynamicCache) -> Transfer:
        started = time.perf_counter()
        report = self._connector.save_prefix(cache, self._prompt)
        seconds = time.perf_counter() - started
        return Transfer(
            blocks=report.blocks_stored, bytes=report.bytes_stored, move_seconds=report.put_seconds, seconds=seconds
        )

    def _prefill(self, tokens: list[int], cache: DynamicCache) -> torch.Tensor:
        self._tokens_in_flight = len(tokens)
        return prefill(self._model, tokens, cache)

    def _layer_done(self, *_: Any) -> None:
        if self._work_total:
            self._work_left -= self._tokens_in_flight
            self._report_progress(1 - self._work_left / self._work_total)

    def _write(self, logits: np.ndarray[Any, np.dtype[np.float32]]) -> str:
        self._answers += 1
        path = Path(self._options.work_dir) / f"{self._options.name}-{self._answers}.npy"
        np.save(path, logits, allow_pickle=False)
        return str(path)


def main(arguments: list[str] | None = None) -> None:
    """The process: takes over standard input and output until the input ends."""
    options = _parser().parse_args(arguments)
    channel = _take_standard_output()

    def say(kind: str, what: Any) -> None:
        channel.write(json.dumps({kind: what}) + "\n")

    said = 0

    def report_progress(fraction: float) -> None:
        nonlocal said
        if int(100 * fraction) != said:
            said = int(100 * fraction)
            say("progress", fraction)

    engine = Engine(options, report_progress)
    say("ready", asdict(engine.describe()))
    for line in sys.stdin:
        say("answer", asdict(engine.answer(Task(**json.loads(line)))))


def _take_standard_output() -> IO[str]:
    """The line channel; whatever else prints from now on goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return channel


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kvstore.demo.engine", description=__doc__)
    parser.add_argument("--name", required=True, help="prefix of the files this engine writes")
    parser.add_argument("--store", required=True, help="address of the node, kv://host:port")
    parser.add_argument("--work-dir", required=True, help="folder for arrays")
    for name in ("seed", "threads", "block-size", "new-tokens", "prompt-tokens", "timeout-ms"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lane", required=True)
    return parser


if __name__ == "__main__":
    main()
