"""The asynchronous client: the verbs of `Client` as coroutines, woken by a descriptor and not by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kvstore.client.arguments import (
    checked_owner,
    checked_timeout_ms,
    key_bytes,
    pin_ttl_ms,
    raise_if_wrong_size,
    raise_refusal,
    ttl_s_to_ms,
)
from kvstore.client.closed import Closed
from kvstore.client.completions import Completions
from kvstore.client.results import BoolArray, Borrow, GetResult, PinResult, PutResult, present
from kvstore.client.session import Session
from kvstore.errors import ClosedError, InvalidArgumentError
from kvstore.transport import fork

__all__ = ["AsyncClient"]


class AsyncClient:
    """A session with one node for one event loop, made by `kvstore.connect_async`. Use it in that loop only.

    The verbs, their arguments, results and errors are those of `Client`. A verb that is cancelled ends at once, except
    `get`: it first waits until nothing writes to the caller's buffers any more, at most until its deadline.
    """

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop, *, timeout_ms: int) -> None:
        self._session = session
        self._native: Any = session.native
        self._timeout_ms = timeout_ms
        self._completions = Completions(session.native, loop)
        fork.watch(self)
        self._finalizer = weakref.finalize(self, _close_dropped, session, self._completions)

    @classmethod
    async def open(cls, open_session: Callable[[], Session], *, timeout_ms: int) -> AsyncClient:
        """A client of the running loop on the session that `open_session` returns; that one may block."""
        loop = asyncio.get_running_loop()
        # Made in the other thread, so that a session nobody waits for any more is closed by its client's finalizer.
        client = await loop.run_in_executor(None, lambda: cls(open_session(), loop, timeout_ms=timeout_ms))
        client._completions.listen()
        return client

    async def match(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        """See `Client.match`."""
        try:
            ticket = self._usable().submit_match(keys, timeout_ms=self._deadline(timeout_ms))
        except (TypeError, ValueError) as error:
            self._refused(error)
        return int(await self._completions.result(ticket))

    async def put(
        self,
        keys: Any,
        buffers: Any,
        *,
        ttl_s: float | None = None,
        durable: bool = False,
        first_depth: int = 0,
        timeout_ms: int | None = None,
    ) -> PutResult:
        """See `Client.put`. The buffers must stay as they are until the end of the call; if cancelled, its deadline."""
        ttl_ms = 0 if ttl_s is None else ttl_s_to_ms(ttl_s)
        try:
            ticket = self._usable().submit_put(
                keys,
                buffers,
                ttl_ms=ttl_ms,
                durable=durable,
                first_depth=first_depth,
                timeout_ms=self._deadline(timeout_ms),
            )
        except (TypeError, ValueError) as error:
            self._refused(error, buffers, first_depth=first_depth, durable=durable)
        return PutResult(await self._completions.result(ticket))

    async def get(
        self,
        keys: Any,
        buffers: Any,
        *,
        wait_ms: int = 0,
        first_depth: int = 0,
        timeout_ms: int | None = None,
    ) -> GetResult:
        """See `Client.get`."""
        try:
            ticket = self._usable().submit_get(
                keys, buffers, wait_ms=wait_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms)
            )
        except (TypeError, ValueError) as error:
            self._refused(error, buffers, wait_ms=wait_ms, first_depth=first_depth)
        cause = await self._completions.result_after_writes(ticket)
        raise_if_wrong_size(cause, keys)
        return GetResult(cause)

    @contextlib.asynccontextmanager
    async def borrow(
        self, keys: Any, *, wait_ms: int = 0, first_depth: int = 0, timeout_ms: int | None = None
    ) -> AsyncIterator[Sequence[npt.NDArray[np.uint8] | None]]:
        """`async with store.borrow(keys) as views`; see `Client.borrow`."""
        try:
            ticket = self._usable().submit_borrow(
                keys, wait_ms=wait_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms)
            )
        except (TypeError, ValueError) as error:
            self._refused(error, wait_ms=wait_ms, first_depth=first_depth)
        with Borrow(await self._completions.result(ticket)) as views:
            yield views

    async def exists(self, keys: Any, *, timeout_ms: int | None = None) -> BoolArray:
        """See `Client.exists`."""
        try:
            ticket = self._usable().submit_exists(keys, timeout_ms=self._deadline(timeout_ms))
        except (TypeError, ValueError) as error:
            self._refused(error)
        return present(await self._completions.result(ticket))

    async def touch(
        self, keys: Any, *, ttl_s: float | None = None, first_depth: int = 0, timeout_ms: int | None = None
    ) -> BoolArray:
        """See `Client.touch`."""
        ttl_ms = None if ttl_s is None else ttl_s_to_ms(ttl_s)
        try:
            ticket = self._usable().submit_touch(
                keys, ttl_ms=ttl_ms, first_depth=first_depth, timeout_ms=self._deadline(timeout_ms)
            )
        except (TypeError, ValueError) as error:
            self._refused(error, first_depth=first_depth)
        return present(await self._completions.result(ticket))

    async def delete(self, keys: Any, *, timeout_ms: int | None = None) -> BoolArray:
        """See `Client.delete`."""
        try:
            ticket = self._usable().submit_delete(keys, timeout_ms=self._deadline(timeout_ms))
        except (TypeError, ValueError) as error:
            self._refused(error)
        return present(await self._completions.result(ticket))

    async def flush(self, *, timeout_ms: int | None = None) -> bool:
        """See `Client.flush`."""
        try:
            return await asyncio.to_thread(self._session.flush, self._usable(), self._deadline(timeout_ms))
        except ValueError as error:
            self._refused(error)

    async def pin(self, keys: Any, *, owner: str, ttl_s: float, timeout_ms: int | None = None) -> PinResult:
        """See `Client.pin`."""
        ttl_ms, names = pin_ttl_ms(ttl_s), key_bytes(keys)
        try:
            cause = await asyncio.to_thread(
                self._session.pin, self._usable(), names, checked_owner(owner), ttl_ms, self._deadline(timeout_ms)
            )
        except ValueError as error:
            self._refused(error)
        return PinResult(cause)

    async def stats(self, *, timeout_ms: int | None = None) -> dict[str, dict[str, Any] | None]:
        """See `Client.stats`."""
        return await asyncio.to_thread(self._session.stats, self._usable(), self._deadline(timeout_ms))

    async def close(self) -> None:
        """See `Client.close`."""
        self._usable_loop()
        if self._finalizer.detach() is None:
            return
        self._native = Closed("close() was called")
        await asyncio.to_thread(self._session.close)
        self._completions.finish()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        self._native = Closed(fork.FORKED)
        self._finalizer.detach()
        self._session.abandon()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<kvstore.AsyncClient of {self._session}>"

    def _usable(self) -> Any:
        self._usable_loop()
        return self._native

    def _usable_loop(self) -> None:
        if asyncio.get_running_loop() is not self._completions.loop:
            raise InvalidArgumentError("this client belongs to another event loop; open one in each loop")

    def _deadline(self, timeout_ms: int | None) -> int:
        return self._timeout_ms if timeout_ms is None else checked_timeout_ms(timeout_ms)

    def _refused(self, error: Exception, buffers: Any = (), **options: Any) -> NoReturn:
        if isinstance(error, InvalidArgumentError):
            raise error
        if isinstance(self._native, Closed):
            raise ClosedError("this client was closed during the call") from error
        raise_refusal(error, buffers, self._session.max_block_bytes, options)


def _close_dropped(session: Session, completions: Completions) -> None:
    completions.detach()
    session.close()
