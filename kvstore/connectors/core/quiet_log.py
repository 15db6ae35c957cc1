"""Log lines from inside an engine's loop: each kind at most once a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["QuietLog"]


class QuietLog:
    """Warnings of a logger, at most one of each text every `interval_s`, with how many were left out. Thread-safe."""

    def __init__(
        self, logger: logging.Logger, *, interval_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, text: str, *values: object) -> None:
        """As `Logger.warning`; lines with the same `text` count as the same."""
        now_s = self._clock()
        with self._lock:
            since_s = self._said.get(text)
            if since_s is not None and now_s - since_s < self._interval_s:
                self._left_out[text] = self._left_out.get(text, 0) + 1
                return
            self._said[text] = now_s
            left_out = self._left_out.pop(text, 0)
        suffix = f" (and {left_out} more like it since the last line)" if left_out else ""
        self._logger.warning(text + "%s", *values, suffix)
