"""Where the time of a call goes, and how much of it is left."""

from __future__ import annotations

import time
from collections import defaultdict

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up the seconds between laps under the name of the lap that ends; `timeout_ms` None means no end."""

    def __init__(self, timeout_ms: int | None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._since_s = time.perf_counter()
        self._until_s = None if timeout_ms is None else self._since_s + timeout_ms / 1000

    def lap(self, name: str) -> None:
        """Ends a lap."""
        now_s = time.perf_counter()
        self.seconds[name] += now_s - self._since_s
        self._since_s = now_s

    def left_ms(self) -> int | None:
        """What is left for a request: at least 1 ms, so that one whose time is over ends at once; None for no end."""
        return None if self._until_s is None else max(1, int((self._until_s - time.perf_counter()) * 1000))

    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._until_s is not None and time.perf_counter() >= self._until_s
