"""What stands where a native object was."""

from __future__ import annotations

from typing import Any

from kvstore.errors import ClosedError

__all__ = ["Closed"]


class Closed:
    """Raises `ClosedError` at any use, so that the verbs of an open client need not ask whether it is."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise ClosedError(f"closed: {self._reason}")
