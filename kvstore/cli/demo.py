"""`kvstore demo`: the main job."""

from __future__ import annotations

import asyncio
import enum
import importlib.util
import os
import signal
from typing import Annotated

import typer
from rich.console import Console

from kvstore.demo.processes import ChildError
from kvstore.demo.prompt import prompt_tokens
from kvstore.demo.run import DemoSettings, run_demo
from kvstore.errors import KVStoreError

__all__ = ["app", "demo"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PROMPT_TOKENS = len(prompt_tokens())
_NEEDED = ("torch", "transformers")
_THREADS_MOST = 8
_COLUMNS_MOST = 100


class Lane(enum.Enum):
    """The choices of `--lane`, as `kvstore.connect` takes them."""

    AUTO = "auto"
    MAPPED = "mapped"
    SHM = "shm"
    TCP = "tcp"


@app.command()
def demo(
    tokens: Annotated[
        int, typer.Option(min=65, max=_PROMPT_TOKENS, help="How much of the text is used, in tokens of a byte.")
    ] = _PROMPT_TOKENS,
    new_tokens: Annotated[int, typer.Option(min=1, max=1024, help="Tokens to generate.")] = 32,
    block_size: Annotated[int, typer.Option(min=1, max=64, help="Tokens of a block.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the model's weights.")] = 7,
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Threads of each engine; 0 takes the cores of this machine, at most 8.")
    ] = 0,
    lane: Annotated[Lane, typer.Option(help="How the bytes travel; auto takes the best that works.")] = Lane.AUTO,
    memory: Annotated[str, typer.Option(help="Memory of the node.")] = "1GiB",
    disk_size: Annotated[
        str, typer.Option(help="Space on its disk, in the temporary directory; 0 leaves it without, which must fail.")
    ] = "256MiB",
    timeout_ms: Annotated[
        int, typer.Option(min=1, help="Deadline of each operation of the store, milliseconds.")
    ] = 2000,
) -> None:
    """Shows a model's KV cache travel between processes, and checks every bit of it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise KVStoreError(f"{' and '.join(missing)} are not installed; run: pip install 'kvstore[demo]'")
    console = Console(highlight=False)
    console.width = min(console.width, _COLUMNS_MOST)
    settings = DemoSettings(
        prompt_tokens=tokens,
        new_tokens=new_tokens,
        block_size=block_size,
        seed=seed,
        threads=threads or min(_THREADS_MOST, len(os.sched_getaffinity(0))),
        lane=lane.value,
        memory=memory,
        disk_size=disk_size,
        timeout_ms=timeout_ms,
    )
    try:
        holds = asyncio.run(_until_told_to_stop(settings, console))
    except ChildError as error:
        raise KVStoreError(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; every process of the demo has ended", style="yellow")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if holds else 1)


async def _until_told_to_stop(settings: DemoSettings, console: Console) -> bool:
    """As `run_demo`; SIGTERM and SIGHUP end it as Ctrl-C does, children included."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await run_demo(settings, console)
