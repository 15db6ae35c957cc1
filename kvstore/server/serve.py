"""Running a node until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from kvstore.config import NodeConfig
from kvstore.errors import ConfigError
from kvstore.server.node_server import NodeServer

__all__ = ["serve"]

_log = logging.getLogger("kvstore.server")


async def serve(config: NodeConfig, ready_file: Path | None = None) -> None:
    """Runs a node until SIGTERM or SIGINT. Raises `ConfigError` for what cannot be had.

    Says so on standard output when it is ready. `ready_file` has received the control address by then, complete from
    the first moment it exists; it is removed at the end.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    # Until there is something to shut down in order, both signals just end the process: touching memory takes long.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    async with NodeServer(config) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if ready_file is not None:
            _write_whole(ready_file, f"{server.address}\n")
        print(f"kvstore node ready: {server.describe()}", flush=True)
        try:
            await stop.wait()
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
        _log.info("stopping")
    _log.info("stopped")


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"ready file {str(path)!r} cannot be written: {error.strerror}") from error
