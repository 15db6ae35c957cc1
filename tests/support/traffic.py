"""A client at work beside a fault: what became of each call, how long the longest took, and that no byte was wrong."""

from __future__ import annotations

import collections
import threading
import time
from typing import Any, Self

import numpy as np

from kvstore import Status
from tests.support.blocks import assert_same, blocks, chain

__all__ = ["Traffic"]

_COUNT = 4
_PAUSE_S = 0.001


class Traffic:
    """Reads one chain again and again, and writes new ones, in a thread of its own, until the `with` statement ends.

    Any exception and any wrong byte fail the test at its end.
    """

    def __init__(self, store: Any, name: str, *, size: int = 200_000) -> None:
        self._store = store
        self._name = name
        self._size = size
        self.names = chain(name, _COUNT)
        self._contents = blocks(self.names, size)
        self.reads: collections.Counter[Status] = collections.Counter()
        self.writes: collections.Counter[Status] = collections.Counter()
        self.longest_s = 0.0
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def write_chain(self) -> None:
        """Puts what is then read."""
        result = self._store.put(self.names, self._contents, timeout_ms=20_000)
        assert result.all_ok, result

    @property
    def hits(self) -> int:
        self._check()
        return self.reads[Status.OK]

    @property
    def misses(self) -> int:
        self._check()
        return self.reads.total() - self.reads[Status.OK]

    @property
    def stored(self) -> int:
        self._check()
        return self.writes[Status.OK]

    def __enter__(self) -> Self:
        self.write_chain()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call hangs"
        if error[0] is None:
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"traffic of {self._name!r}: {self._error!r}") from self._error

    def _run(self) -> None:
        buffers = np.zeros((_COUNT, self._size), np.uint8)
        try:
            round_number = 0
            while not self._stop.wait(_PAUSE_S):
                self._read(buffers)
                self._write(round_number)
                round_number += 1
        except BaseException as error:
            self._error = error

    def _read(self, buffers: np.ndarray) -> None:
        buffers[:] = 0
        start_s = time.monotonic()
        result = self._store.get(self.names, buffers)
        self._took(start_s)
        for at in np.flatnonzero(result.ok):
            assert_same(buffers[at], self._contents[at], f"block {at}")
        self.reads.update(Status(cause) for cause in result.cause.tolist())

    def _write(self, round_number: int) -> None:
        # The chain's own bytes under new names; deleted at once, so that the store does not fill up.
        names = chain(f"{self._name} {round_number}", _COUNT)
        start_s = time.monotonic()
        result = self._store.put(names, self._contents)
        self._took(start_s)
        self.writes.update(Status(cause) for cause in result.cause.tolist())
        start_s = time.monotonic()
        self._store.delete(names)
        self._took(start_s)

    def _took(self, start_s: float) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - start_s)
