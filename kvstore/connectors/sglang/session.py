"""One session with the store for one of SGLang's threads: submit, wait, answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import EngineStore

__all__ = ["Ok", "Session"]

Ok: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
"""`(n,)` bools, one a key."""

# The client ends every operation at its deadline. This is how late it may be before its buffers count as lost.
_GRACE_MS: Final = 10_000
_LOGGER: Final = logging.getLogger("kvstore.connectors.sglang")


class Session:
    """Requests of one kind, each waited for. SGLang looks up, loads and saves in a thread each: none waits for another.

    Thread-safe, one call at a time. Raises nothing after construction, except what `submit` raises.
    """

    def __init__(self, config: ConnectorConfig, *, timeout_ms: int) -> None:
        self.store = EngineStore(config)
        self._timeout_ms = timeout_ms
        self._lock = threading.Lock()

    def run(self, counts: Sequence[int], submit: Callable[[EngineStore], Sequence[int | None]]) -> list[Ok]:
        """Waits for what `submit` submits: how many of its blocks are good, for `counts` of them.

        A ticket that is None was dropped: none of its blocks is.
        """
        with self._lock:
            tickets = submit(self.store)
            waiting = {ticket for ticket in tickets if ticket is not None}
            ended = {done.ticket: done.ok for done in self.store.wait(waiting, self._timeout_ms + _GRACE_MS)}
        if not waiting <= ended.keys():
            # Nothing may be written into a page that SGLang uses for something else by now.
            _LOGGER.error("the store did not end a request in time; it is left alone until the engine restarts")
            self.store.close()
        none = [np.zeros(count, np.bool_) for count in counts]
        return [ended.get(ticket, missing) for ticket, missing in zip(tickets, none, strict=True)]  # type: ignore[arg-type]

    def close(self) -> None:
        """Ends the session. Idempotent."""
        self.store.close()
