"""A process that the tests start, watch and kill."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from tests.node_process import wait_until
from tests.support.processes import is_stopped

__all__ = ["Worker"]

_ROOT = Path(__file__).parents[2]
_LINE_TIMEOUT_S = 60.0


class Worker:
    """`python -m <module> <arguments>`, read line by line, and killed at the end of the `with` statement."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def next_line(self) -> str:
        """The next line that it prints; fails the test when it ends instead."""
        line = self._fresh.get(timeout=_LINE_TIMEOUT_S)
        assert line is not None, f"the worker ended with {self._process.wait()}: {self.lines}"
        return line

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self.pid), "the worker is stopped")

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; returns when it is gone and all that it printed was read."""
        self._process.kill()
        self._process.wait(_LINE_TIMEOUT_S)
        self._reader.join(_LINE_TIMEOUT_S)

    def finish(self) -> int:
        """Asks it to end by closing its standard input, and returns the exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(_LINE_TIMEOUT_S)
        self._reader.join(_LINE_TIMEOUT_S)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._fresh.put(self.lines[-1])
        self._fresh.put(None)
