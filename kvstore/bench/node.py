"""The node that is measured: a child process with one data thread, or one that is running already."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvstore.errors import ConnectError
from kvstore.transport.deadline import Deadline

__all__ = ["MeasuredNode", "served_node"]

_START_TIMEOUT_MS: Final = 30_000
_END_TIMEOUT_S: Final = 10.0
_LOG_LINES_SHOWN: Final = 12


@dataclass(frozen=True)
class MeasuredNode:
    """`pid` is None for a node that we did not start: of such a one neither memory nor CPU time can be told."""

    url: str
    pid: int | None


@contextmanager
def served_node(memory_bytes: int, max_block_bytes: int) -> Iterator[MeasuredNode]:
    """Runs `kvstore serve` on a free port until the block is left. Raises `ConnectError` if it does not start."""
    # Not by the name `kvstore`, which need not be on the path of an environment that was not activated. One thread, as
    # the client and either end of the plain socket have.
    command = [sys.executable, "-c", "from kvstore.cli.main import main; main()", "serve", "--listen", "127.0.0.1:0"]
    command += ["--memory", str(memory_bytes), "--max-block", str(max_block_bytes), "--threads", "1", "--prefault"]
    with tempfile.TemporaryDirectory(prefix="kvstore-bench-") as folder:
        log = Path(folder) / "node.log"
        with log.open("wb") as standard_error:
            process = subprocess.Popen(
                # In a session of its own, so that Ctrl-C reaches only us, and we end it in order.
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=standard_error,
                start_new_session=True,
            )
        try:
            yield MeasuredNode(f"kv://{_address_of(process, log)}", process.pid)
        finally:
            _end(process)


def _address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """From the line that a node prints when it is ready: "kvstore node ready: control HOST:PORT, ..."."""
    line = _first_line(process, Deadline(_START_TIMEOUT_MS))
    found = re.search(r"control (\S+),", line)
    if found is None:
        last = log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        raise ConnectError("\n".join(["the node to measure did not start", *last]))
    return found[1]


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


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes the pipe
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
            return
        process.kill()
        process.wait(_END_TIMEOUT_S)
