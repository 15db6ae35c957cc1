"""Leaves a store that does not answer alone for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Breaker"]

_TIMEOUTS = 2
_FIRST_PAUSE_S = 1.0
_PAUSE_S_MAX = 30.0


class Breaker:
    """Opens after two timeouts in a row; then, after a pause that doubles, lets one request try. Thread-safe.

    An engine that asks a frozen store for every request would wait its lookup timeout for every request. Timeouts of
    requests that were under way when it opened say nothing new, however many they are: only a try's doubles the pause.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._timeouts = 0
        self._pause_s = _FIRST_PAUSE_S
        self._until_s: float | None = None
        self._trying = False
        self.openings = 0

    @property
    def is_open(self) -> bool:
        """Whether the store is being left alone; asking is no try."""
        with self._lock:
            return self._until_s is not None

    def refuses(self) -> bool:
        """Whether a request shall not be sent now. The first after a pause may: it is the try, and begins the next."""
        with self._lock:
            if self._until_s is None:
                return False
            now_s = self._clock()
            if now_s < self._until_s:
                return True
            self._until_s = now_s + self._pause_s
            self._trying = True
            return False

    def note(self, *, timed_out: bool) -> None:
        """How a request ended."""
        with self._lock:
            if not timed_out:
                self._timeouts, self._pause_s, self._until_s, self._trying = 0, _FIRST_PAUSE_S, None, False
            elif self._until_s is not None:
                if self._trying:
                    self._pause_s = min(_PAUSE_S_MAX, self._pause_s * 2)
                    self._until_s, self._trying = self._clock() + self._pause_s, False
            else:
                self._timeouts += 1
                if self._timeouts >= _TIMEOUTS:
                    self._until_s = self._clock() + self._pause_s
                    self.openings += 1
