"""Time to the first token with a cached prompt beside recomputation, and what the connector costs without hits.

    build/engines/vllm-0.32/bin/python -m benchmarks.connectors.vllm_ttft [--rounds 5]

From the root of the repository. Engines on CPU with the same model (Llama, 8 layers of 512, float32): two without a
connector, whose difference is noise, one with `KVStoreTier`, one with `KVStoreOffloadingSpec`. Each round gives each
of them a prompt of 2,000 tokens that nobody has seen (computed), has the engines with a connector forget it, and gives
it to them again (loaded from the node). Rounds take turns in which engine goes first; figures are medians over rounds,
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.engines.models import write_llama
from tests.engines.vllm.engine import Engine, direct, tiered
from tests.engines.vllm.models import prompt
from tests.node_process import wait_until
from tests.support.node import Node

PROMPT_TOKENS = 2000
ANSWER_TOKENS = 64
CHUNK_TOKENS = 32
# Than the model of the tests, so that computing the prompt is work: 8 KiB of KV a token.
LARGER = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
}
PLAIN, PLAIN_AGAIN = "no connector", "no connector, another"


def first_token_s(engine: Engine, tokens: list[int]) -> float:
    """From giving the prompt to having its first token."""
    began_s = time.perf_counter()
    engine.generate(tokens, tokens=1)
    return time.perf_counter() - began_s


def measure(engines: dict[str, Engine], node: Node, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by engine and measurement, one a round."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    names = list(engines)
    for round_number in range(rounds + 1):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            engine = engines[name]
            seconds = {"computed": 0.0}
            tokens = prompt(f"{name} {round_number}", PROMPT_TOKENS)
            blocks_before = node.counters["blocks"]
            seconds["computed"] = first_token_s(engine, tokens)
            if name not in {PLAIN, PLAIN_AGAIN}:
                engine.generate(prompt("so that the engine goes on", 16), tokens=8)
                chunks = PROMPT_TOKENS // CHUNK_TOKENS - 1
                wait_until(lambda: node.counters["blocks"] >= blocks_before + chunks, "the prompt is saved", 60)  # noqa: B023
                engine.forget()
                seconds["loaded"] = first_token_s(engine, tokens)
            began_s = time.perf_counter()
            engine.generate(prompt(f"steps {name} {round_number}", 16), tokens=ANSWER_TOKENS)
            seconds["step without hits"] = (time.perf_counter() - began_s) / ANSWER_TOKENS
            if round_number:  # the first warms up
                for what, value in seconds.items():
                    found[name].setdefault(what, []).append(value)
    return found


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """A table of medians, and of medians of ratios to the engine without a connector in the same round."""
    plain = found[PLAIN]
    table = Table("engine", "measurement", "median ms", "ratio to no connector, computed")
    for name, measurements in found.items():
        for what, values in measurements.items():
            beside = plain["computed" if what == "loaded" else what]
            ratio = statistics.median(value / other for value, other in zip(values, beside, strict=True))
            table.add_row(name, what, f"{statistics.median(values) * 1000:.1f}", f"{ratio:.3f}")
    Console().print(table)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        model = write_llama(folder / "model", **LARGER)
        (folder / "node").mkdir()
        node = opened.enter_context(Node(folder / "node", "--prefault", memory="512MiB"))
        configs = {
            PLAIN: None,
            PLAIN_AGAIN: None,
            "KVStoreTier": tiered(node.url),
            "KVStoreOffloadingSpec": direct(node.url),
        }
        engines = {
            name: opened.enter_context(
                Engine(model, **({} if config is None else {"kv_transfer_config": config}))  # type: ignore[arg-type]
            )
            for name, config in configs.items()
        }
        show(measure(engines, node, arguments.rounds))


if __name__ == "__main__":
    main()
