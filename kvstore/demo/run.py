"""The main job: three processes, four acts, one verdict."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from kvstore.config import parse_bytes
from kvstore.demo.messages import Ready, Task
from kvstore.demo.processes import Child, ChildError
from kvstore.demo.report import show_checks, show_introduction, show_last_bits, show_sharing, show_verdict
from kvstore.demo.stages import Stages
from kvstore.demo.verdict import Check, Continuation, Sharing, judge_loss, judge_restart, judge_sharing

__all__ = ["DemoSettings", "run_demo"]

_NODE_START_TIMEOUT_S = 30.0
_ENGINE_START_TIMEOUT_S = 180.0  # torch may have to be read from a slow disk
_ANSWER_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What can be chosen; `prompt_tokens` is how much of the essay is used, and without a disk its size is 0."""

    prompt_tokens: int
    new_tokens: int
    block_size: int
    seed: int
    threads: int
    lane: str
    memory: str
    disk_size: str
    timeout_ms: int

    @property
    def blocks(self) -> int:
        """Whole blocks of the prompt that leave at least one token to compute."""
        return (self.prompt_tokens - 1) // self.block_size


async def run_demo(settings: DemoSettings, console: Console) -> bool:
    """Runs the main job and shows it on `console`; returns whether every check holds.

    Raises `ChildError` when a process dies or hangs. However this ends, no process is left behind.
    """
    started = time.monotonic()
    show_introduction(console, prompt_tokens=settings.prompt_tokens)
    async with AsyncExitStack() as stack:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvstore-demo-")))
        story = _Story(settings, console, work_dir, stack)
        checks = await story.share() + await story.stop() + await story.kill() + await story.come_back()
    console.print()
    show_verdict(console, checks, seconds=time.monotonic() - started)
    return all(check.holds for check in checks)


class _Story:
    """The acts, in the order of the methods: each shows itself and returns its checks. Children end with `stack`."""

    _node: Child
    _engine: Child  # engine B
    _sharing: Sharing

    def __init__(self, settings: DemoSettings, console: Console, work_dir: Path, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._console = console
        self._work_dir = work_dir
        self._stack = stack
        self._starts = 0

    async def share(self) -> list[Check]:
        """Engine A computes and stores, engine B loads."""
        settings = self._settings
        with Stages(self._console) as stages:
            with stages.stage("node", "starts, with a disk"):
                address = await self._start_node()
            one_shot, stored = await _first_engine(settings, address, self._work_dir, stages)
            with stages.stage("engine B", "starts, now that engine A has ended"):
                self._engine = await _start_engine("engine-b", settings, address, self._work_dir)
                await self._stack.enter_async_context(self._engine)
                ready = Ready(**await self._engine.hear("ready", timeout_s=_ENGINE_START_TIMEOUT_S))
            with stages.stage("engine B", f"loads {settings.blocks:,} blocks, continues") as advance:
                warm = await _ask(self._engine, Task(use_store=True), advance)
            with stages.stage("engine B", "again, with the loaded KV zeroed") as advance:
                zeroed = await _ask(self._engine, Task(use_store=True, zero_loaded=True), advance)
        self._sharing = sharing = Sharing(
            blocks=settings.blocks, one_shot=one_shot, stored=stored, warm=warm, zeroed=zeroed
        )
        checks = judge_sharing(sharing)
        show_sharing(
            self._console, sharing, ready, prompt_tokens=settings.prompt_tokens, block_size=settings.block_size
        )
        show_checks(self._console, checks)
        show_last_bits(self._console, one_shot, stored)
        return checks

    async def stop(self) -> list[Check]:
        """The node is stopped and started again, with nothing in memory."""
        self._console.print()
        with Stages(self._console) as stages:
            with stages.stage("node", f"is stopped: SIGTERM to process {self._node.pid}"):
                await self._node.end()
            reloaded = await self._load_from_disk(stages)
        return self._shown(judge_restart("restarted", self._sharing, reloaded))

    async def kill(self) -> list[Check]:
        """The node is lost."""
        self._console.print()
        with Stages(self._console) as stages:
            with stages.stage("node", f"is killed: SIGKILL to process {self._node.pid}"):
                await self._node.kill()
            with stages.stage("engine B", "is asked again, and recomputes") as advance:
                recomputed = await _ask(self._engine, Task(use_store=True), advance)
        return self._shown(judge_loss(self._sharing, recomputed, timeout_ms=self._settings.timeout_ms))

    async def come_back(self) -> list[Check]:
        """The killed node starts again."""
        self._console.print()
        with Stages(self._console) as stages:
            reloaded = await self._load_from_disk(stages)
        return self._shown(judge_restart("killed", self._sharing, reloaded))

    async def _load_from_disk(self, stages: Stages) -> Continuation:
        with stages.stage("node", "starts again on the same disk"):
            address = await self._start_node()
        with stages.stage("engine B", f"loads {self._settings.blocks:,} blocks from disk, continues") as advance:
            return await _ask(self._engine, Task(use_store=True, node=address), advance)

    async def _start_node(self) -> str:
        self._starts += 1
        log = self._work_dir / f"node-{self._starts}.log"
        self._node = await self._stack.enter_async_context(await _start_node(self._settings, self._work_dir, log))
        return await _address_of(self._node)

    def _shown(self, checks: list[Check]) -> list[Check]:
        show_checks(self._console, checks)
        return checks


async def _first_engine(
    settings: DemoSettings, address: str, work_dir: Path, stages: Stages
) -> tuple[Continuation, Continuation]:
    """Engine A from start to end: its answer from one prefill, and its answer while storing."""
    async with AsyncExitStack() as stack:
        with stages.stage("engine A", "starts"):
            engine = await stack.enter_async_context(await _start_engine("engine-a", settings, address, work_dir))
            await engine.hear("ready", timeout_s=_ENGINE_START_TIMEOUT_S)
        with stages.stage("engine A", f"prefills {settings.prompt_tokens:,} tokens at once, continues") as advance:
            one_shot = await _ask(engine, Task(use_store=False), advance)
        with stages.stage("engine A", f"prefills and stores {settings.blocks:,} blocks, continues") as advance:
            stored = await _ask(engine, Task(use_store=True, save=True), advance)
    return one_shot, stored


async def _ask(engine: Child, task: Task, on_progress: Callable[[float], None]) -> Continuation:
    await engine.say(asdict(task))
    return Continuation.from_json(await engine.hear("answer", timeout_s=_ANSWER_TIMEOUT_S, on_progress=on_progress))


async def _start_node(settings: DemoSettings, work_dir: Path, log: Path) -> Child:
    # Not by the name `kvstore`, which need not be on the path of an environment that was not activated.
    command = [sys.executable, "-c", "from kvstore.cli.main import main; main()", "serve"]
    # What a killed node leaves of its directory of sockets goes with the work directory.
    command += ["--listen=127.0.0.1:0", f"--memory={settings.memory}", f"--runtime-dir={work_dir}"]
    if parse_bytes(settings.disk_size):
        command += [f"--disk={work_dir / 'disk'}", f"--disk-size={settings.disk_size}"]
    return await Child.start("the node", command, log=log)


async def _address_of(node: Child) -> str:
    """From the line that a node prints when it is ready: "kvstore node ready: control HOST:PORT, ..."."""
    line = await node.read_line(timeout_s=_NODE_START_TIMEOUT_S)
    found = re.search(r"control (\S+),", line)
    if found is None:
        raise ChildError(f"the node said {line!r} instead of its address")
    return f"kv://{found[1]}"


async def _start_engine(name: str, settings: DemoSettings, address: str, work_dir: Path) -> Child:
    command = [sys.executable, "-m", "kvstore.demo.engine"]
    options = {
        "name": name,
        "store": address,
        "work-dir": work_dir,
        "prompt-tokens": settings.prompt_tokens,
        "new-tokens": settings.new_tokens,
        "block-size": settings.block_size,
        "seed": settings.seed,
        "threads": settings.threads,
        "lane": settings.lane,
        "timeout-ms": settings.timeout_ms,
    }
    command += [f"--{option}={value}" for option, value in options.items()]
    # Nothing is downloaded, and the libraries need not look.
    environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return await Child.start(name.replace("-", " "), command, log=work_dir / f"{name}.log", environment=environment)
