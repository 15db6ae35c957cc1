"""`kvstore serve`"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from kvstore.config import NodeConfig
from kvstore.server import serve

__all__ = ["run"]


def run(flags: Mapping[str, object], config_file: Path | None, ready_file: Path | None) -> None:
    """Runs a node in the foreground. Raises `ConfigError`."""
    config = NodeConfig.load(file=config_file, overrides=flags)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s", datefmt="%H:%M:%S"
    )
    asyncio.run(serve(config, ready_file))
