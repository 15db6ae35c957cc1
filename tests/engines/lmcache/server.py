"""`lmcache server` as a process, and LMCache's own tools against it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.node_process import wait_until

__all__ = ["CHUNKS", "LMCacheServer", "Requests", "free_port", "run_tool"]

_START_S = 60.0
_STOP_S = 20.0
_TOOL_S = 150.0
# LMCache reports its use to its makers unless told otherwise.
_ENVIRONMENT = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}
_SHAPE = "(2,256,16,4,64):bfloat16:8"
_CHUNK_TOKENS = 256
CHUNKS = 8


def free_port() -> int:
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ARGUMENTS` to its end."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_TOOL_S, check=False)


class Requests(NamedTuple):
    """How many chunks the first and the second lookup of each request found, and the checksums of the KV, whose bytes
    are those of all requests: as computed, and as retrieved wherever all of it was found.
    """

    checksums: list[str]
    cold_hits: list[int]
    warm_hits: list[int]
    printed: str


class LMCacheServer:
    """A server whose only second tier is the adapter, and which keeps nothing in its own memory: all hits come from it.

    `adapter` is JSON.
    """

    def __init__(self, folder: Path, adapter: str, *flags: str) -> None:
        self.port, self.http_port = free_port(), free_port()
        self._log = folder / f"lmcache-{self.port}.log"
        tiers = ["--eviction-policy", "noop", "--l2-store-policy", "skip_l1", "--l2-adapter", adapter]
        self._flags = ["--l1-size-gb", "0.5", "--no-l1-use-lazy", "--supported-transfer-mode", "auto", *tiers, *flags]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def requests(self, start: int, end: int) -> Requests:
        """What `lmcache bench server` does: each request is looked up, and retrieved or computed and stored, then
        looked up again and retrieved into memory that was zeroed. Raises for requests that failed.
        """
        urls = ["--rpc-url", f"tcp://127.0.0.1:{self.port}", "--url", f"http://127.0.0.1:{self.http_port}"]
        which = [
            "--start",
            str(start),
            "--end",
            str(end),
            "--num-tokens",
            str(CHUNKS * _CHUNK_TOKENS),
            "--interval",
            "0",
        ]
        shape = ["--mode", "cpu", "--kvcache-shape-spec", _SHAPE]
        run = run_tool("lmcache.cli.main", "bench", "server", *urls, *which, *shape)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "MISMATCH" not in run.stdout, run.stdout
        phases = re.split(r"(?=\[seq \d+/\w+\] LOOKUP)", run.stdout)[1:]
        hits: dict[str, list[int]] = {"cold": [], "warm": []}
        checksums = []
        for phase in phases:
            when, found = re.match(r"\[seq \d+/(\w+)\] LOOKUP: (\d+)/", phase).groups()
            hits[when].append(int(found))
            computed, retrieved = when == "cold" and found == "0", int(found) == CHUNKS
            if computed or retrieved:
                checksums += re.findall(r"/\w+\] CHECKSUM: (\w+) ", phase)
        return Requests(checksums, hits["cold"], hits["warm"], run.stdout)

    def adapter_status(self) -> dict[str, Any]:
        """What the server shows of its second tier."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/status", timeout=5) as answer:
            (adapter,) = json.load(answer)["storage_manager"]["l2_adapters"]
        return dict(adapter)

    @contextlib.contextmanager
    def running(self) -> Iterator[LMCacheServer]:
        places = ["--host", "127.0.0.1", "--port", str(self.port), "--shm-name", f"kvstore-{self.port}"]
        http = ["--http-host", "127.0.0.1", "--http-port", str(self.http_port)]
        command = [sys.executable, "-m", "lmcache.cli.main", "server", *places, *http, *self._flags]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: self._answers() or process.poll() is not None, "LMCache's server answers", _START_S)
            assert process.poll() is None, self.log
            yield self
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            finally:
                process.kill()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/healthcheck", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False
