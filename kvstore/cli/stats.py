"""`kvstore stats`"""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console

from kvstore.cli.stats_view import StatsPage
from kvstore.client.url import parse_node_url
from kvstore.transport.control import ControlPlane

__all__ = ["run"]


def run(url: str, *, as_json: bool, timeout_ms: int) -> None:
    """Prints what the node has counted. Raises `ConnectError`."""
    control = ControlPlane(parse_node_url(url))
    try:
        stats = control.stats(timeout_ms=timeout_ms)
    finally:
        control.close()
    if as_json:
        print(json.dumps({"address": str(control.address), **dataclasses.asdict(stats)}, indent=2, sort_keys=True))
    else:
        Console().print(StatsPage(str(control.address), stats))
