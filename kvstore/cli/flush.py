"""`kvstore flush`"""

from __future__ import annotations

from kvstore.client.url import parse_node_url
from kvstore.errors import KVStoreError
from kvstore.transport.control import ControlPlane

__all__ = ["run"]


def run(url: str, *, timeout_ms: int) -> None:
    """Flushes, and says so. Raises `KVStoreError` if not everything is durable in time, `ConnectError` if lost."""
    control = ControlPlane(parse_node_url(url))
    try:
        flushed = control.flush(timeout_ms=timeout_ms)
    finally:
        control.close()
    if not flushed.durable:
        raise KVStoreError(
            f"{control.address} has blocks that are not durable after {timeout_ms} ms: it has no disk, or one that"
            f" lags or fails; see kvstore stats kv://{control.address}"
        )
    print(f"every block that {control.address} has acknowledged is durable")
