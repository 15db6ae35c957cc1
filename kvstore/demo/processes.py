"""The demo's children: each is started, spoken to and ended here, with a deadline on every wait."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Child", "ChildError"]

_END_TIMEOUT_S = 5.0
_LOG_LINES_SHOWN = 12


class ChildError(Exception):
    """A child died, said what it should not, or missed a deadline. The message ends with the last lines of its log."""


class Child:
    """A running child process. As an asynchronous context manager it has ended when the block is left, come what may.

    Children lead sessions of their own, so that Ctrl-C reaches the orchestrator alone, which ends them in order.
    """

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Starts `command`; `environment` comes on top of this process's own. Standard error goes to `log`."""
        with log.open("wb") as standard_error:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=standard_error,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        return cls(name, process, log)

    async def say(self, message: Mapping[str, Any]) -> None:
        """Writes one JSON line to the child's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with suppress(ConnectionError):  # then it has died, which `hear` reports with its log
            await self._process.stdin.drain()

    async def hear(
        self, kind: str, *, timeout_s: float, on_progress: Callable[[float], None] = lambda fraction: None
    ) -> dict[str, Any]:
        """The value of the next line `{kind: value}`; `{"progress": fraction}` lines before it go to `on_progress`.

        Raises `ChildError` if that line does not come within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = json.loads(await self._line())
                    if "progress" not in message:
                        return dict(message[kind])
                    on_progress(message["progress"])
        except TimeoutError:
            raise self._error(f"gave no answer within {timeout_s:.0f} s") from None
        except (ValueError, KeyError) as error:
            raise self._error(f"said what is no {kind}: {error!r}") from None

    async def read_line(self, *, timeout_s: float) -> str:
        """The next line of its standard output. Raises `ChildError` if none comes in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return (await self._line()).decode(errors="replace").rstrip()
        except TimeoutError:
            raise self._error(f"said nothing within {timeout_s:.0f} s") from None

    async def kill(self) -> None:
        """SIGKILL to this child alone; returns when it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Asks the child to end (SIGTERM), kills it if it does not within some seconds. Idempotent."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                with suppress(ProcessLookupError):
                    self._process.terminate()
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                self._process.kill()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._error(f"ended unexpectedly, with exit status {await self._process.wait()}")
        return line

    def _error(self, what: str) -> ChildError:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return ChildError("\n".join([f"{self.name} (process {self.pid}) {what}", *lines]))
