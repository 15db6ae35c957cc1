"""Lookups of objects that LMCache is going to load, and the locks that keep those objects until then."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kvstore.connectors.core import EngineStore

__all__ = ["LookupLocks"]

_IDLE_S = 60.0

Keys = npt.NDArray[np.uint8]


class LookupLocks:
    """Finds and locks blocks in a thread of its own, and gives the locks back. Thread-safe.

    A lock is a pin on the node, so that nothing evicts the block, whoever else writes. LMCache may hold several locks
    on a block where there is one pin of ours, so locks are counted here. A pin ends by itself after `ttl_s`: the locks
    of a process that died, or that was cut off, hold nothing for longer, and a block whose load comes later than that
    may be gone, which is a miss.

    `found` is called in the thread with a task and which of its blocks are there, `(n,)` bools.
    """

    def __init__(
        self, store: EngineStore, *, ttl_s: float, found: Callable[[int, npt.NDArray[np.bool_]], None]
    ) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._found = found
        # Nobody else has this name, as long as host names differ.
        self._owner = f"lmcache {socket.gethostname()[:64]} {os.getpid()} {time.monotonic_ns()}"
        # Locks on a block and when its pin is over, by key; those pinned last are last.
        self._held: dict[bytes, tuple[int, float]] = {}
        # LMCache bounds both: it has a few prefetches under way, and unlocks what they locked.
        self._to_find: list[tuple[int, Keys]] = []
        self._to_unlock: list[Keys] = []
        self._closing = False
        self._work = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kvstore lmcache locks", daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """How many blocks are locked."""
        return len(self._held)

    def find(self, task: int, keys: Keys) -> None:
        """Looks for blocks, `(n, 32)` keys, and locks those that are there; `found` is told in time."""
        with self._work:
            self._to_find.append((task, keys))
            self._work.notify()

    def unlock(self, keys: Keys) -> None:
        """Gives back one lock a key, where there is one."""
        with self._work:
            self._to_unlock.append(keys)
            self._work.notify()

    def close(self, timeout_s: float) -> None:
        """Gives back all locks and ends the thread, if it does not take too long. Idempotent."""
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._to_find or self._to_unlock or self._closing, _IDLE_S)
                if self._closing:
                    break
                to_find, self._to_find = self._to_find, []
                to_unlock: list[Keys] = []
                if not to_find:  # somebody waits for what is found
                    to_unlock, self._to_unlock = self._to_unlock, []
            for task, keys in to_find:
                self._found(task, self._lock_blocks(keys))
            if to_unlock:
                self._unlock_blocks(np.concatenate(to_unlock))
        self._unpin(list(self._held))

    def _lock_blocks(self, keys: Keys) -> npt.NDArray[np.bool_]:
        now_s = time.monotonic()
        self._forget_until(now_s)
        there = self._store.pin(keys, owner=self._owner, ttl_s=self._ttl_s)
        for key in keys[there]:
            name = key.tobytes()
            count, _ = self._held.pop(name, (0, 0.0))
            self._held[name] = count + 1, now_s + self._ttl_s
        return there

    def _forget_until(self, now_s: float) -> None:
        """LMCache does not unlock what a request had found that it has given up."""
        while self._held:
            name = next(iter(self._held))
            if self._held[name][1] > now_s:
                return
            del self._held[name]

    def _unlock_blocks(self, keys: Keys) -> None:
        ended = []
        for key in keys:
            name = key.tobytes()
            count, until_s = self._held.get(name, (0, 0.0))
            if count > 1:
                self._held[name] = count - 1, until_s
            elif count == 1:
                del self._held[name]
                ended.append(name)
        self._unpin(ended)

    def _unpin(self, names: list[bytes]) -> None:
        if names:
            keys = np.frombuffer(b"".join(names), np.uint8).reshape(len(names), -1)
            self._store.pin(keys, owner=self._owner, ttl_s=0)
