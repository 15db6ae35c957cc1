"""Where the scheduler and the worker of one process meet: the engine makes both at once, with the same arguments."""

from __future__ import annotations

import threading
from typing import Any

from kvstore.connectors.tensorrt_llm.pages import EnginePages

__all__ = ["Meeting"]

_lock = threading.Lock()
_meetings: list[tuple[Any, Meeting]] = []
# An engine that was shut down leaves its meeting behind; a process has few engines, one after the other.
_MEETINGS_MAX = 16


class Meeting:
    """The worker sets `pages`, the scheduler reads it. Thread-safe."""

    def __init__(self) -> None:
        self.pages: EnginePages | None = None
        """What the engine has registered with the worker; None before that."""

    @staticmethod
    def of(llm_args: Any) -> Meeting:
        """That of everybody in this process who was given the same object."""
        with _lock:
            for known, meeting in _meetings:
                if known is llm_args:
                    return meeting
            _meetings.append((llm_args, Meeting()))
            del _meetings[:-_MEETINGS_MAX]
            return _meetings[-1][1]
