"""An `EngineStore` whose descriptor tells of everything that has ended."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import Any

import numpy as np

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import Done, EngineStore
from kvstore.connectors.core.engine_store import Kind

__all__ = ["WatchedStore"]

# Below every ticket that an EngineStore gives out.
_FIRST_TICKET = -(1 << 40)


class WatchedStore:
    """Submissions that LMCache waits for on one descriptor. Thread-safe; `poll` gives each completion to one caller.

    LMCache sleeps until the descriptor is readable, so submissions that never reach the node (it is left alone, a save
    is dropped, arguments are of no use) must make it readable, too. Every submission has a ticket and one completion.

    Raises what `EngineStore` raises.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        self.engine = EngineStore(config)
        self._lock = threading.Lock()
        self._refused: list[Done] = []
        self._next_ticket = _FIRST_TICKET
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # An epoll descriptor is readable when one of those it watches is.
        self._either = select.epoll()
        self._either.register(self.engine.fileno(), select.EPOLLIN)
        self._either.register(self._wake, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when `poll` has something to return."""
        return self._either.fileno()

    def exists(self, keys: Any) -> int:
        """Asks which blocks are there."""
        return self._announce(self.engine.exists(keys))

    def load(self, keys: Any, buffers: list[memoryview]) -> int:
        """Reads blocks into `buffers`, one a key."""
        return self._announce(self.engine.load(keys, buffers, nbytes=_total_bytes(buffers)))

    def save(self, keys: Any, buffers: list[memoryview]) -> int:
        """Writes blocks."""
        ticket = self.engine.save(keys, buffers, nbytes=_total_bytes(buffers))
        return self.refuse("save", len(keys)) if ticket is None else self._announce(ticket)

    def delete(self, keys: Any) -> int:
        """Removes blocks."""
        return self._announce(self.engine.delete(keys))

    def refuse(self, kind: Kind, blocks: int) -> int:
        """A submission that ends as not done, without having begun."""
        with self._lock:
            ticket = self._next_ticket
            self._next_ticket -= 1
            self._refused.append(Done(ticket, kind, np.zeros(blocks, np.bool_), 0.0))
        return self._announce(ticket)

    def poll(self) -> list[Done]:
        """What has ended since the last call, each once; does not wait."""
        with self._lock:
            if not self._closed:
                # Before looking, so that what ends after the look makes the descriptor readable again.
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            refused, self._refused = self._refused, []
        return refused + self.engine.poll()

    def wake(self) -> None:
        """Makes the descriptor readable until the next `poll`."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Ends the session; what is under way ends as not done. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.engine.close()
        self._either.close()
        os.close(self._wake)

    def _announce(self, ticket: int) -> int:
        if ticket < 0:
            self.wake()
        return ticket


def _total_bytes(buffers: list[memoryview]) -> int:
    return sum(buffer.nbytes for buffer in buffers)
