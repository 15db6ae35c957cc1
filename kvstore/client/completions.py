"""From the native core's completion descriptor to futures of one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kvstore.errors import ClosedError

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["Completions"]


class Completions:
    """The calls under way of one native client. Everything but `detach` runs in the loop's thread."""

    def __init__(self, native: _native.Client, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._native = native
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._descriptor = native.completion_fd
        self._listening = False

    def listen(self) -> None:
        """Starts giving out results."""
        self.loop.add_reader(self._descriptor, self._drain)
        self._listening = True

    async def result(self, ticket: int) -> Any:
        """The result of a submission. When cancelled, forgets it at once; a late borrow is released."""
        future = self._futures[ticket] = self.loop.create_future()
        return await future

    async def result_after_writes(self, ticket: int) -> Any:
        """As `result`, for a call that writes to the caller's memory. When cancelled, first waits for its end.

        The end is never later than the call's own deadline, and afterwards nothing writes to the buffers.
        """
        future = self._futures[ticket] = self.loop.create_future()
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return future.result()

    def finish(self) -> None:
        """Gives out what is ready, ends the rest with `ClosedError` and stops listening."""
        self._drain()
        self.loop.remove_reader(self._descriptor)
        self._listening = False
        for future in self._futures.values():
            if not future.done():
                future.set_exception(ClosedError("this client was closed during the call"))
        self._futures.clear()

    def detach(self) -> None:
        """Stops listening, from any thread, for a client that was dropped without being closed."""
        if self._listening and not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self.loop.remove_reader, self._descriptor)
            except RuntimeError:  # the loop was closed between the two lines
                return

    def _drain(self) -> None:
        for ticket, result in self._native.drain():
            future = self._futures.pop(ticket)
            if not future.done():
                future.set_result(result)
            elif hasattr(result, "release"):
                result.release()
