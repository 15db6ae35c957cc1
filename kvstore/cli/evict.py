"""`kvstore evict`"""

from __future__ import annotations

from kvstore.cli.control import open_control
from kvstore.config import format_bytes, parse_bytes

__all__ = ["run"]


def run(url: str, size: str, *, timeout_ms: int, token_file: str | None) -> None:
    """Evicts, and says how much was freed. Raises `ConnectError`, or `ConfigError` for a size that is none."""
    wanted_bytes = parse_bytes(size)
    with open_control(url, token_file) as control:
        freed_bytes = control.evict(wanted_bytes, timeout_ms=timeout_ms)
    shortfall = "" if freed_bytes >= wanted_bytes else f" of {format_bytes(wanted_bytes)}: there is no more to evict"
    print(f"freed {format_bytes(freed_bytes)}{shortfall}")
