"""Running a node until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from kvstore.config import NodeConfig
from kvstore.server.node_server import NodeServer

__all__ = ["serve"]

_log = logging.getLogger("kvstore.server")


async def serve(config: NodeConfig, ready_file: Path | None = None) -> None:
    """Runs a node until SIGTERM or SIGINT. Raises `ConfigError` for what cannot be had.

    Says so on standard output when it is ready. `ready_file` then receives the control address, complete from the first
    moment it exists; it is removed at the end.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with NodeServer(config) as server:
        print(f"kvstore node ready: {server.describe()}", flush=True)
        if ready_file is not None:
            _write_whole(ready_file, f"{server.address}\n")
        try:
            await stop.wait()
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
        _log.info("stopping")
    _log.info("stopped")


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
