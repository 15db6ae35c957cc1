"""`kvstore flush`"""

from __future__ import annotations

from kvstore.cli.control import open_control
from kvstore.errors import KVStoreError

__all__ = ["run"]


def run(url: str, *, timeout_ms: int, token_file: str | None) -> None:
    """Flushes, and says so. Raises `KVStoreError` if not everything is durable in time, `ConnectError` if lost."""
    with open_control(url, token_file) as control:
        flushed = control.flush(timeout_ms=timeout_ms)
    if not flushed.durable:
        raise KVStoreError(
            f"{control.address} has blocks that are not durable after {timeout_ms} ms: it has no disk, or one that"
            f" lags or fails; see kvstore stats kv://{control.address}"
        )
    print(f"every block that {control.address} has acknowledged is durable")
