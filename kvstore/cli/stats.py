"""`kvstore stats`"""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console

from kvstore.cli.control import open_control
from kvstore.cli.stats_view import StatsPage

__all__ = ["run"]


def run(url: str, *, as_json: bool, timeout_ms: int, token_file: str | None) -> None:
    """Prints what the node has counted. Raises `ConnectError`."""
    with open_control(url, token_file) as control:
        stats = control.stats(timeout_ms=timeout_ms)
    if as_json:
        print(json.dumps({"address": str(control.address), **dataclasses.asdict(stats)}, indent=2, sort_keys=True))
    else:
        Console().print(StatsPage(str(control.address), stats))
