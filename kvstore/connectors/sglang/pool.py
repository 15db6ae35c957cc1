"""A host pool as the store sees it: its pages and their names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kvstore.config import ConnectorConfig
from kvstore.connectors.sglang.host_pages import HostPages, open_pages
from kvstore.connectors.sglang.identity import engine_settings, is_replicated, is_writer, namespace_of, weight_version
from kvstore.keys import Namespace

__all__ = ["Keys", "Pool", "PoolFactory"]

Keys: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


@dataclass(frozen=True)
class Pool:
    """`host` is SGLang's; `writes` says whether this rank is the one that saves its pages. Immutable, thread-safe."""

    host: Any
    pages: HostPages
    namespace: Namespace
    writes: bool

    @property
    def page_bytes(self) -> int:
        """Bytes of one block: a page with all its pieces."""
        return self.pages.page_bytes

    def keys(self, page_hashes: Sequence[str]) -> Keys:
        """The block keys of pages that SGLang has hashed: `(n, 32)` uint8."""
        return self.namespace.keys(page_hashes)


class PoolFactory:
    """Describes host pools for one rank. `storage` is SGLang's `HiCacheStorageConfig`. Thread-safe."""

    def __init__(self, storage: Any, config: ConnectorConfig, *, secret: bytes) -> None:
        self._storage = storage
        self._config = config
        self._secret = secret
        self._generation = ""
        self._weights = weight_version()

    def describe(self, name: str, host: Any, *, mapped: bool) -> Pool:
        """Raises `UnsupportedError` for a pool without pages, `InvalidArgumentError` for an engine without a model."""
        pages = open_pages(host, mapped=mapped)
        engine = engine_settings() | {"weight_version": self._weights}
        namespace = namespace_of(
            *(self._storage, name, host, pages),
            config=self._config,
            secret=self._secret,
            engine=engine,
            generation=self._generation,
        )
        writes = is_writer(self._storage) or not is_replicated(self._storage, host)
        return Pool(host, pages, namespace, writes)

    def has_new_weights(self) -> bool:
        """Whether the engine's weights have got another version since the last call; pools are to be described anew."""
        before, self._weights = self._weights, weight_version()
        return self._weights != before

    def forget(self) -> None:
        """From now on pools have names that no other process has, nor this one had: what is stored is not found.

        Blocks stay for other engines until they are evicted. Ranks that share pages no longer find each other's,
        either: a model with latent attention on several ranks has no more hits before the engine restarts.
        """
        self._generation = f"{socket.gethostname()} {os.getpid()} {time.monotonic_ns()}"
