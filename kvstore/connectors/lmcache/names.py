"""LMCache's objects under the store's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import read_tenant_secret
from kvstore.keys import Namespace
from kvstore.layout import PageLayout

__all__ = ["ObjectNames"]

_SEPARATOR = "@"
_ENGINE_HASH = "lmcache-object-key-blake3"
# What stands for the model where LMCache's own name for it, which is in every key, is the one to use.
_MODEL_OF_THE_KEY = "lmcache"
_REVISION_NOT_SAID = "none"


class ObjectNames:
    """Block keys of LMCache's objects: one builder for lookups, loads, stores and deletes. Thread-safe.

    LMCache names an object `model@kv_rank@object_group@chunk_hash[@cache_salt]`; ranks, groups, prefixes and salts are
    thus told apart by it. What it leaves out goes into the namespace: `dtype`, everything in `terms` (plain JSON), and
    the settings `revision` and `tenant_secret_file`; the setting `model` stands in for the name in the key.

    Raises `ConfigError` for a secret that cannot be read, `InvalidArgumentError` for terms of no use.
    """

    def __init__(self, config: ConnectorConfig, *, dtype: str, terms: dict[str, Any]) -> None:
        self._model = config.model
        # A lookup does not know how long objects are; that one has another length is seen when it is loaded: a miss.
        layout = PageLayout(engine="lmcache", dtype=dtype, page_bytes=1, terms=terms)
        self._namespace = Namespace(
            model=config.model or _MODEL_OF_THE_KEY,
            revision=config.revision or _REVISION_NOT_SAID,
            layout=layout,
            engine_hash=_ENGINE_HASH,
            tenant_secret=read_tenant_secret(config),
        )

    def keys(self, object_keys: Iterable[str]) -> npt.NDArray[np.uint8]:
        """The block keys, `(n, 32)` uint8, of objects by LMCache's names."""
        return self._namespace.keys([blake3(self._told(key)).digest() for key in object_keys])

    def _told(self, object_key: str) -> bytes:
        if self._model:
            object_key = self._model + object_key[object_key.find(_SEPARATOR) :]
        return object_key.encode("utf-8", "surrogatepass")
