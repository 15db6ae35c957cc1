"""LMCache's adapter type `native_plugin`: batches of named objects, one descriptor, completions drained."""

from __future__ import annotations

from kvstore.connectors.core import Done
from kvstore.connectors.lmcache.names import ObjectNames
from kvstore.connectors.lmcache.setup import load_adapter_config
from kvstore.connectors.lmcache.watched_store import WatchedStore

__all__ = ["KVStoreNativePlugin"]

Completed = tuple[int, bool, str, list[bool] | None]


class KVStoreNativePlugin:
    """Objects of LMCache's L1, moved by the native client straight between their memory and the node. Thread-safe.

    Made by LMCache with its `adapter_params`: the settings of a connector (`endpoint` and the others of
    docs/SETTINGS.md), and what must agree between all who share objects, because LMCache's keys do not have it:
    `dtype`, the element type of the KV cache ("bfloat16"); `format`, any text that tells apart whatever else changes
    the bytes (a serde, another KV layout).

    `submit_*` return a number at once, under which `drain_completions` later tells how it ended. Nothing raises after
    construction: what goes wrong is a miss, or a store that failed. Raises `ConfigError` or `InvalidArgumentError` for
    settings of no use; a node that is away is looked for.
    """

    def __init__(self, *, dtype: str, format: str = "", **settings: object) -> None:
        config = load_adapter_config(settings)
        self._names = ObjectNames(config, dtype=dtype, terms={"interface": "native_plugin", "format": format})
        self._store = WatchedStore(config)

    def event_fd(self) -> int:
        """Readable while there are completions to drain."""
        return self._store.fileno()

    def submit_batch_get(self, keys: list[str], memoryviews: list[memoryview]) -> int:
        """Reads objects into their memory; an object of another length than that is a miss."""
        return self._store.load(self._names.keys(keys), memoryviews)

    def submit_batch_set(self, keys: list[str], memoryviews: list[memoryview]) -> int:
        """Writes objects, whose memory must stay as it is until the completion was drained."""
        return self._store.save(self._names.keys(keys), memoryviews)

    def submit_batch_exists(self, keys: list[str]) -> int:
        """Asks which objects are there."""
        return self._store.exists(self._names.keys(keys))

    def submit_batch_delete(self, keys: list[str]) -> int:
        """Removes objects."""
        return self._store.delete(self._names.keys(keys))

    def drain_completions(self) -> list[Completed]:
        """(number, ok, error, one bool an object) of what has ended; a set has no bools, and is ok as a whole."""
        return [_completed(done) for done in self._store.poll()]

    def stats(self) -> dict[str, int | float]:
        """Everything counted since the start: names in docs/connectors/README.md."""
        return self._store.engine.stats()

    def close(self) -> None:
        """Ends the session. Idempotent."""
        self._store.close()


def _completed(done: Done) -> Completed:
    if done.kind == "save":
        stored = bool(done.ok.all())
        return done.ticket, stored, "" if stored else "not every object was stored", None
    return done.ticket, True, "", done.ok.tolist()
