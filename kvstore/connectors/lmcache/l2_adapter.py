"""LMCache's adapter type `plugin`: store, lookup-and-lock and load tasks."""

from __future__ import annotations

import select
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L1MemoryDesc, L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.platform import create_event_notifier

from kvstore.connectors.core import Done
from kvstore.connectors.lmcache.layouts import LayoutNames
from kvstore.connectors.lmcache.locks import LookupLocks
from kvstore.connectors.lmcache.setup import load_adapter_config
from kvstore.connectors.lmcache.watched_store import WatchedStore
from kvstore.errors import ConfigError

__all__ = ["KVStoreL2Adapter"]

_LOCK_TTL_MS = 15_000
_LOCK_TTL_MS_MAX = 3_600_000
_JOIN_S = 5.0
_IDLE_MS = 60_000
# More than LMCache ever has under way: it does not ask for the results of requests that it has given up.
_RESULTS_MAX = 10_000


class _Task(NamedTuple):
    """What a ticket of the store is part of."""

    id: int
    keys: list[ObjectKey]
    sizes: list[int]


class KVStoreL2Adapter(L2AdapterInterface):
    """Objects of LMCache's L1, moved by the native client straight between their memory and the node. Thread-safe.

    Made by LMCache with its `adapter_params`: the settings of a connector (`endpoint` and the others of
    docs/SETTINGS.md); `format`, any text that tells apart whatever changes the bytes and is not in LMCache's
    descriptions of its objects; `lock_ttl_ms`, how long an object that was found is kept for its load. Layouts and
    element types are LMCache's own and go into the names.

    Nothing raises after construction: what goes wrong is a miss, or a store that failed. Raises `ConfigError` or
    `InvalidArgumentError` for settings of no use; a node that is away is looked for.
    """

    def __init__(self, adapter_params: dict[str, Any], *, l1_memory_desc: L1MemoryDesc | None = None) -> None:
        super().__init__()
        settings = dict(adapter_params)
        lock_ttl_ms = settings.pop("lock_ttl_ms", _LOCK_TTL_MS)
        if not isinstance(lock_ttl_ms, int) or not 1 <= lock_ttl_ms <= _LOCK_TTL_MS_MAX:
            raise ConfigError(f"lock_ttl_ms is {lock_ttl_ms!r}; it must be an integer from 1 to {_LOCK_TTL_MS_MAX}")
        text = settings.pop("format", "")
        config = load_adapter_config(settings)
        self._l1 = l1_memory_desc
        self._names = LayoutNames(config, format=str(text))
        self._store = WatchedStore(config)
        self._stored, self._found, self._loaded = (create_event_notifier() for _ in range(3))
        # Held from a submission until what its ticket belongs to is noted.
        self._lock = threading.Lock()
        self._next_task = 0
        self._tasks: dict[int, _Task] = {}
        self._store_results: dict[int, L2StoreResult] = {}
        self._lookup_results: dict[int, Bitmap] = {}
        self._load_results: dict[int, Bitmap] = {}
        self._closing = False
        self._locks = LookupLocks(self._store.engine, ttl_s=lock_ttl_ms / 1000, found=self._end_lookup)
        self._router = threading.Thread(target=self._route, name="kvstore lmcache", daemon=True)
        self._router.start()

    def get_store_event_fd(self) -> int:
        """Readable when stores have ended."""
        return self._stored.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        """Readable when lookups have ended."""
        return self._found.fileno()

    def get_load_event_fd(self) -> int:
        """Readable when loads have ended."""
        return self._loaded.fileno()

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        """Writes objects, whose memory must stay as it is until the task has ended."""
        block_keys, buffers = self._names.keys_of(keys, objects), _buffers(objects)
        with self._lock:
            ticket = self._store.save(block_keys, buffers) if buffers else self._store.refuse("save", len(keys))
            return self._note(ticket, keys, [memory.get_size() for memory in objects])

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        """Whether each store that has ended is there as a whole; each once."""
        with self._lock:
            ended, self._store_results = self._store_results, {}
        return ended

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> int:
        """Asks which objects are there, and keeps those for `lock_ttl_ms` or until they are unlocked."""
        block_keys = self._names.keys_to_find(keys, group_layout_descs)
        with self._lock:
            task = self._new_task()
        self._locks.find(task, block_keys)
        return task

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        """Which objects are there and locked; None before the lookup has ended, and after this has said it."""
        with self._lock:
            return self._lookup_results.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Gives back a lock on each object."""
        self._locks.unlock(self._names.known_keys(keys))

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        """Reads objects into their memory; an object of another length than that is a miss."""
        block_keys, buffers = self._names.keys_of(keys, objects), _buffers(objects)
        with self._lock:
            ticket = self._store.load(block_keys, buffers) if buffers else self._store.refuse("load", len(keys))
            return self._note(ticket, keys, [])

    def query_load_result(self, task_id: int) -> Bitmap | None:
        """Which objects are in their memory; None before the load has ended, and after this has said it."""
        with self._lock:
            return self._load_results.pop(task_id, None)

    def delete(self, keys: list[ObjectKey]) -> None:
        """Removes objects; listeners are told when they are gone."""
        with self._lock:
            sizes = [self._names.object_bytes(key) for key in keys]
            self._note(self._store.delete(self._names.known_keys(keys)), keys, sizes)

    def report_status(self) -> dict[str, Any]:
        """State and counters of this process's connection; names in docs/connectors/README.md."""
        engine = self._store.engine
        return {
            "is_healthy": engine.connected and self._router.is_alive(),
            "type": type(self).__name__,
            "endpoint": engine.config.endpoint,
            "lane": engine.lane,
            "locked_blocks": self._locks.held,
            "l1_bytes": self._l1.size if self._l1 is not None else 0,
            **engine.stats(),
        }

    def close(self) -> None:
        """Ends the session; locks are given back. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._locks.close(_JOIN_S)
        self._store.wake()
        self._router.join(_JOIN_S)
        self._store.close()
        for notifier in (self._stored, self._found, self._loaded):
            notifier.close()

    def _new_task(self) -> int:
        self._next_task += 1
        return self._next_task

    def _note(self, ticket: int, keys: list[ObjectKey], sizes: list[int]) -> int:
        task = _Task(self._new_task(), list(keys), sizes)
        self._tasks[ticket] = task
        return task.id

    def _end_lookup(self, task: int, there: npt.NDArray[np.bool_]) -> None:
        with self._lock:
            _keep(self._lookup_results, task, _bitmap(there))
            if not self._closing:
                self._found.notify()

    def _route(self) -> None:
        readable = select.poll()
        readable.register(self._store.fileno(), select.POLLIN)
        while not self._closing:
            readable.poll(_IDLE_MS)
            for done in self._store.poll():
                try:
                    self._end(done)
                except Exception as error:  # noqa: BLE001 - of LMCache's listeners; the next task must end as well
                    self._store.engine.log.warning("LMCache could not take the end of a %s: %s", done.kind, error)

    def _end(self, done: Done) -> None:
        with self._lock:
            task = self._tasks.pop(done.ticket)
            if done.kind == "save":
                self._store_results[task.id] = L2StoreResult(bool(done.ok.all()), sum(task.sizes))
                self._stored.notify()
            elif done.kind == "load":
                _keep(self._load_results, task.id, _bitmap(done.ok))
                self._loaded.notify()
        good = np.flatnonzero(done.ok)
        keys = [task.keys[index] for index in good]
        if done.kind == "load" and keys:
            self._notify_keys_accessed(keys)
        elif done.kind == "save" and len(keys) == len(task.keys):
            self._notify_keys_stored(keys, task.sizes)
        elif done.kind == "delete" and keys:
            self._notify_keys_deleted(keys, [task.sizes[index] for index in good])


def _buffers(objects: list[MemoryObj]) -> list[memoryview]:
    """The memory of objects; none at all where it is not the CPU's."""
    try:
        return [memory.byte_array for memory in objects]
    except NotImplementedError:
        return []


def _keep(results: dict[int, Bitmap], task: int, result: Bitmap) -> None:
    results[task] = result
    if len(results) > _RESULTS_MAX:
        del results[next(iter(results))]


def _bitmap(values: npt.NDArray[np.bool_]) -> Bitmap:
    bitmap = Bitmap(len(values))
    for index in np.flatnonzero(values):
        bitmap.set(int(index))
    return bitmap
