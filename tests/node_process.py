"""A storage node as a process of its own, on a port of its own, for tests that need the real thing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from tests.support.processes import is_stopped

__all__ = [
    "BLOCK_BYTES",
    "COMMAND",
    "GRACE_S",
    "LANES",
    "NodeProcess",
    "some_blocks",
    "some_keys",
    "wait_until",
    "wait_until_async",
]

# The installed command, without relying on where scripts are put.
COMMAND = (sys.executable, "-c", "from kvstore.cli.main import main; main()")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
LANES = ("mapped", "shm", "tcp")
BLOCK_BYTES = 4096
# What a busy machine may add to a deadline.
GRACE_S = 2.0


def some_keys(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def some_blocks(count: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, BLOCK_BYTES), dtype=np.uint8)


def wait_until(condition, what: str, timeout_s: float = 10.0) -> None:
    """Returns as soon as `condition()` is true; fails the test with `what` when that takes too long."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


async def wait_until_async(condition, what: str, timeout_s: float = 10.0) -> None:
    """As `wait_until`, for a condition that is a coroutine function."""
    end_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < end_s, f"{what}: not within {timeout_s} s"
        await asyncio.sleep(0.01)


class NodeProcess:
    """`kvstore serve` with its files in `folder`; ends with the `with` statement.

    `disks` are directories of its NVMe tier, `disk_size` the space on all of them.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        listen: str = "127.0.0.1:0",
        memory: str = "64MiB",
        disks: Sequence[Path] = (),
        disk_size: str = "256MiB",
    ) -> None:
        self.sockets = folder / "run"
        self.sockets.mkdir(exist_ok=True)
        self._ready_file = folder / "ready"
        self._log = folder / "node.log"
        self._flags = ["--listen", listen, "--memory", memory, *flags]
        if disks:
            self._flags += ["--disk", ",".join(map(str, disks)), "--disk-size", disk_size]
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}  # of the next start, beside what there is
        self.address = ""

    def start(self) -> Self:
        """Starts the node, or starts it anew at the address that it had, and waits until it answers."""
        self.launch()
        assert self._process is not None
        wait_until(self._is_ready_or_dead, "the node is ready", START_TIMEOUT_S)
        assert self._process.poll() is None, self.log
        self.address = self._ready_file.read_text().strip()
        return self

    def launch(self) -> None:
        """As `start`, but waits for nothing."""
        if self.address:
            self._flags[1] = self.address
        self._ready_file.unlink(missing_ok=True)
        places = ["--runtime-dir", str(self.sockets), "--ready-file", str(self._ready_file)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", *self._flags, *places],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
            )

    @property
    def url(self) -> str:
        return f"kv://{self.address}"

    @property
    def log(self) -> str:
        """All that the node has printed."""
        return self._log.read_text()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Returns when every thread stands still."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self.pid), "the node is stopped")

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def wait(self) -> int:
        """The exit status, once the node has ended."""
        assert self._process is not None
        return self._process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9"""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _is_ready_or_dead(self) -> bool:
        assert self._process is not None
        return self._ready_file.exists() or self._process.poll() is not None
