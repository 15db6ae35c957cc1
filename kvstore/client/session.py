"""What a client stands on: a native client that is attached to a node, and what keeps it so."""

from __future__ import annotations

import abc
import functools
import logging
import queue
import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from kvstore import __version__
from kvstore.client.closed import Closed
from kvstore.client.results import StatusArray
from kvstore.config import ClientConfig
from kvstore.errors import ConnectError, KVStoreError
from kvstore.keys import KEY_BYTES
from kvstore.status import Status
from kvstore.transport import fork, lanes, native
from kvstore.transport.address import NodeAddress
from kvstore.transport.control import PIN_KEYS_MAX, ControlPlane
from kvstore.transport.deadline import Deadline
from kvstore.transport.tenant_token import read_token

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["NodeSession", "Session", "backoff_s"]

_log = logging.getLogger("kvstore.client")

# How long the thread sleeps in the native core before it looks around; being woken does not depend on it.
_WATCH_MS = 60_000
_FIRST_PAUSE_S = 0.02


def backoff_s(pause_s_max: float, jitter: random.Random) -> Iterator[float]:
    """Pauses between attempts, without end: doubling up to the limit, each shortened at random by up to a half.

    The jitter keeps the clients of a node that died from coming back all at once.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        yield min(pause_s, pause_s_max) * jitter.uniform(0.5, 1.0)
        pause_s = min(pause_s * 2, pause_s_max)


class Session(abc.ABC):
    """A native client and its node. `lane` was chosen; `endpoint` is what the native core says it really uses."""

    def __init__(self, config: ClientConfig) -> None:
        fork.refuse_in_child()
        self.max_block_bytes = config.max_block_bytes
        self.lane = ""
        self.endpoint = ""
        self.native: _native.Client = native().Client(spin_us=config.spin_us, max_block_bytes=config.max_block_bytes)
        self._abandoned = False

    def stats(self, client: _native.Client | Closed, timeout_ms: int) -> dict[str, dict[str, Any] | None]:
        """Counters of both sides; `client` is the native client as the caller may still use it."""
        mine = {"lane": self.lane, "endpoint": self.endpoint, "connected": client.attached, **client.stats()}
        return {"client": mine, "node": self._node_stats(timeout_ms)}

    def flush(self, client: _native.Client | Closed, timeout_ms: int) -> bool:
        """See `Client.flush`; `client` as for `stats`."""
        return client.attached and self._flush_node(timeout_ms)

    def pin(
        self, client: _native.Client | Closed, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int
    ) -> StatusArray:
        """Pins blocks, or unpins them (`ttl_ms` 0), as many at once as one message takes; `client` as for `stats`."""
        deadline = Deadline(timeout_ms)
        statuses = np.full(len(keys) // KEY_BYTES, Status.UNAVAILABLE, np.uint8)
        if not client.attached:
            return statuses
        for first in range(0, len(statuses), PIN_KEYS_MAX):
            part = keys[first * KEY_BYTES : (first + PIN_KEYS_MAX) * KEY_BYTES]
            answer = self._pin_on_node(part, owner, ttl_ms, deadline.left_ms())
            if len(answer) * KEY_BYTES != len(part):
                statuses[first:] = Status.TIMEOUT if deadline.passed() else Status.UNAVAILABLE
                break
            statuses[first : first + PIN_KEYS_MAX] = np.frombuffer(answer, np.uint8)
        return statuses

    def close(self) -> None:
        """Ends the session and waits for its thread. Idempotent."""
        if not self._abandoned:
            self._close()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        self._abandoned = True
        fork.keep_forever(self.native)

    @abc.abstractmethod
    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None: ...

    @abc.abstractmethod
    def _flush_node(self, timeout_ms: int) -> bool: ...

    @abc.abstractmethod
    def _pin_on_node(self, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int) -> bytes:
        """A status byte a key; none at all when the node does not answer."""

    @abc.abstractmethod
    def _close(self) -> None: ...


class NodeSession(Session):
    """With a node that is another process. A thread attaches again whenever the session is lost, until `close`.

    Raises `ConnectError` when the node does not answer within `config.connect_timeout_ms`, unless it `may_be_away`:
    then the thread goes on trying, as after a loss.
    """

    def __init__(
        self, address: NodeAddress, config: ClientConfig, jitter: random.Random, *, may_be_away: bool = False
    ) -> None:
        super().__init__(config)
        self._address = address
        self._config = config
        self._control = ControlPlane(address, read_token(config.token_file) if config.token_file else "")
        self._backoff_s = functools.partial(backoff_s, config.reconnect_backoff_ms_max / 1000, jitter)
        # Closing is announced through a queue, because `put` may run in a finalizer, whatever the thread is doing.
        self._closing: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = False
        # The starts of the node that have acknowledged anything which no flush has covered yet.
        self._acknowledged_by: set[str] = set()
        self._acknowledged_lock = threading.Lock()
        try:
            self._attach()
        except BaseException as error:
            if not (may_be_away and isinstance(error, ConnectError)):
                self.native.close()
                self._control.close()
                raise
            _log.warning("%s; blocks are misses until it is there", error)
        self._thread = threading.Thread(target=self._stay_attached, name=f"kvstore {address}", daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return f"kv://{self._address} over {self.lane}" if self.lane else f"kv://{self._address}"

    def abandon(self) -> None:
        super().abandon()
        self._control.abandon()

    def _attach(self) -> None:
        deadline = Deadline(self._config.connect_timeout_ms)
        hello = self._control.hello(
            client_version=__version__,
            wire_version=native().WIRE_VERSION,
            shm=self._config.lane == "shm",
            timeout_ms=deadline.left_ms(),
        )
        with self._acknowledged_lock:
            self._acknowledged_by.add(hello.node_id)
        attachment = lanes.attach(self.native, self._config.lane, hello, self._address.numeric_hosts(), deadline)
        self.lane, self.endpoint = attachment.lane, attachment.endpoint

    def _stay_attached(self) -> None:
        while not self._closed:
            if self.native.wait_detached(_WATCH_MS) and not self._closed:
                if self.lane:
                    _log.warning("lost the session with %s; blocks are misses until it is back", self)
                self._attach_again()

    def _attach_again(self) -> None:
        for attempt, pause_s in enumerate(self._backoff_s(), start=1):
            try:
                return self._closing.get(timeout=pause_s)
            except queue.Empty:
                pass
            try:
                self._attach()
            except (KVStoreError, ValueError) as error:  # ValueError: the native client was closed meanwhile
                _log.debug("attempt %d to reach %s again failed: %s", attempt, self._address, error)
            else:
                _log.info("reached %s after %d attempts", self, attempt)
                return None

    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None:
        try:
            node = self._control.stats(timeout_ms=timeout_ms)
        except ConnectError:
            return None
        return {**node.counters, "node_id": node.node_id, "version": node.node_version, "uptime_ms": node.uptime_ms}

    def _flush_node(self, timeout_ms: int) -> bool:
        try:
            flushed = self._control.flush(timeout_ms=timeout_ms)
        except ConnectError:
            return False
        with self._acknowledged_lock:
            acknowledged_by, self._acknowledged_by = self._acknowledged_by, {flushed.node_id}
        return flushed.durable and acknowledged_by == {flushed.node_id}

    def _pin_on_node(self, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int) -> bytes:
        try:
            return self._control.pin(keys, owner, ttl_ms, timeout_ms=timeout_ms)
        except ConnectError:
            return b""

    def _close(self) -> None:
        self._closed = True
        self._closing.put(None)
        self.native.close()
        self._control.close()
        if threading.current_thread() is not self._thread:
            # A bound, not a guess: closing ends what the thread may be waiting for.
            self._thread.join(self._config.connect_timeout_ms / 1000)
