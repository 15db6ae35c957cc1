"""The node that is measured: a child process, or one that is running already."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kvstore.errors import ConnectError
from kvstore.transport.deadline import Deadline

__all__ = ["MeasuredNode", "ServedNode", "served_node"]

_START_TIMEOUT_MS: Final = 60_000
_END_TIMEOUT_S: Final = 60.0
_LOG_LINES_SHOWN: Final = 12
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class MeasuredNode:
    """`pid` is None for a node that we did not start: of such a one neither memory nor CPU time can be told."""

    url: str
    pid: int | None


class ServedNode:
    """`kvstore serve` with these flags on a free port, for a `with` statement: it has ended when the block is left.

    After `stop` or `kill` it can be started again, with another port. Raises `ConnectError` if it does not start.
    """

    def __init__(self, *flags: str) -> None:
        # Not by the name `kvstore`, which need not be on the path of an environment that was not activated.
        self._command = [sys.executable, "-c", "from kvstore.cli.main import main; main()", "serve", *flags]
        self._command += ["--listen", "127.0.0.1:0"]
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="kvstore-bench-")
        self._log = Path(self._folder.name) / "node.log"
        self.url = ""

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None, "the node was never started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What all its starts have logged."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Returns when the node serves."""
        try:
            with self._log.open("ab") as standard_error, _interrupts_held_back():
                self._process = subprocess.Popen(
                    # In a session of its own, so that Ctrl-C reaches only us, and we end it in order.
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=standard_error,
                    start_new_session=True,
                )
            # The line that a node prints when it is ready: "kvstore node ready: control HOST:PORT, ..."
            found = re.search(r"control (\S+),", _first_line(self._process, Deadline(_START_TIMEOUT_MS)))
            if found is None:
                raise ConnectError("\n".join(["the node did not start", *self.log.splitlines()[-_LOG_LINES_SHOWN:]]))
        except BaseException:  # an interrupt, too: whoever waits for the start has no node to stop yet
            self.kill()
            raise
        self.url = f"kv://{found[1]}"

    def stop(self) -> None:
        """Asks it to end (SIGTERM) and waits until it has; what takes longer than a minute is killed. Idempotent."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9; returns when the process is gone. Idempotent."""
        if self._process is None:
            return
        with self._process:  # closes the pipe, and waits
            self._process.kill()
        self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # an interrupt, too, leaves no node
            self.kill()
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()


@contextmanager
def served_node(memory_bytes: int, max_block_bytes: int) -> Iterator[MeasuredNode]:
    """A node without a disk, as the lanes are measured with: one thread, as the client has, and touched memory."""
    flags = ("--memory", str(memory_bytes), "--max-block", str(max_block_bytes), "--threads", "1", "--prefault")
    with ServedNode(*flags) as node:
        yield MeasuredNode(node.url, node.pid)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """One between the birth of a child and the moment when we know its name would leave it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where no interrupt arrives
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for interrupt in held:
            signal.raise_signal(interrupt)


def _first_line(process: subprocess.Popen[bytes], deadline: Deadline) -> str:
    """Without its end if the process ended or the deadline passed before."""
    assert process.stdout is not None
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in line and not deadline.passed():
            if selector.select(deadline.left_ms() / 1000):
                part = os.read(process.stdout.fileno(), 4096)
                if not part:
                    break
                line += part
    return line.decode(errors="replace").partition("\n")[0]
