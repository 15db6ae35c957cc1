"""`kvstore evict`"""

from __future__ import annotations

from kvstore.client.url import parse_node_url
from kvstore.config import format_bytes, parse_bytes
from kvstore.transport.control import ControlPlane

__all__ = ["run"]


def run(url: str, size: str, *, timeout_ms: int) -> None:
    """Evicts, and says how much was freed. Raises `ConnectError`, or `ConfigError` for a size that is none."""
    wanted_bytes = parse_bytes(size)
    control = ControlPlane(parse_node_url(url))
    try:
        freed_bytes = control.evict(wanted_bytes, timeout_ms=timeout_ms)
    finally:
        control.close()
    shortfall = "" if freed_bytes >= wanted_bytes else f" of {format_bytes(wanted_bytes)}: there is no more to evict"
    print(f"freed {format_bytes(freed_bytes)}{shortfall}")
