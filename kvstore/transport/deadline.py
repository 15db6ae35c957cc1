"""One time limit shared by several steps."""

from __future__ import annotations

import time

__all__ = ["Deadline"]


class Deadline:
    """The end of an operation of several steps, each of which may take what the earlier ones left."""

    def __init__(self, timeout_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self._end_s = time.monotonic() + timeout_ms / 1000

    def left_ms(self) -> int:
        """At least 1, so that a step that starts late fails by its own timeout and says so."""
        return max(1, round((self._end_s - time.monotonic()) * 1000))

    def passed(self) -> bool:
        return time.monotonic() >= self._end_s
