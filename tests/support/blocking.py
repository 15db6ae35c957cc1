"""The asynchronous client behind the interface of the synchronous one, so that one suite runs on both."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import kvstore

__all__ = ["BlockingAsyncClient"]

# Far beyond every deadline of a call: only a lost completion takes so long.
_HANG_S = 60.0


class BlockingAsyncClient:
    """An `AsyncClient` in an event loop of its own thread; every verb runs there and its outcome is handed back."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(kvstore.connect_async(url, **settings))
        except BaseException:
            self._end_loop()
            raise

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self._client, verb)
        return lambda *arguments, **options: self._run(method(*arguments, **options))

    @contextlib.contextmanager
    def borrow(self, keys: Any, **options: Any) -> Iterator[Sequence[npt.NDArray[np.uint8] | None]]:
        borrow = self._client.borrow(keys, **options)
        views = self._run(borrow.__aenter__())
        try:
            yield views
        finally:
            self._run(borrow.__aexit__(None, None, None))

    def close(self) -> None:
        self._run(self._client.close())
        self._end_loop()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_HANG_S)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
