"""The shared core without an engine: what every connector gets from it, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvstore import Namespace
from kvstore.connectors.core import EngineStore, load_config
from kvstore.layout import PageLayout
from tests.connectors.driver import ConnectorDriver, Identity, check_page, page
from tests.support.blocks import Bytes, chain

__all__ = ["CoreDriver"]

_PAGE_BYTES = 20_000
_WAIT_MS = 10_000


class CoreDriver(ConnectorDriver):
    distinguishes = frozenset(vars(Identity()))

    def __init__(self, endpoint: str, identity: Identity, settings: dict[str, Any]) -> None:
        super().__init__(endpoint, identity, settings)
        self._store = EngineStore(load_config({"endpoint": endpoint, **settings}))
        self._namespace = Namespace(
            model=identity.model,
            revision=identity.revision,
            layout=PageLayout(
                engine="core", dtype=identity.dtype, page_bytes=_PAGE_BYTES, terms={"layout": identity.layout}
            ),
            block_size=identity.page_size,
            rank=identity.rank,
            world_size=identity.world_size,
            engine_hash="shake-256",
        )

    def save(self, prompt: int, pages: int) -> int:
        content = np.stack([page(self.identity, prompt, index, _PAGE_BYTES) for index in range(pages)])
        ticket = self._store.save(self._keys(prompt, pages), content, nbytes=content.nbytes)
        return 0 if ticket is None else self._result(ticket)

    def lookup(self, prompt: int, pages: int) -> int:
        return self._result(self._store.lookup(self._keys(prompt, pages)))

    def load(self, prompt: int, pages: int) -> int:
        content = np.full((pages, _PAGE_BYTES), 0xEE, np.uint8)
        loaded = self._result(self._store.load(self._keys(prompt, pages), content, nbytes=content.nbytes))
        for index in range(loaded):
            check_page(self.identity, prompt, index, content[index])
        return loaded

    def close(self) -> None:
        self._store.close()

    def _keys(self, prompt: int, pages: int) -> Bytes:
        salt = f"{self.identity.salt}/{self.identity.lora}".encode()
        return self._namespace.keys([bytes(one) for one in chain(str(prompt), pages)], salt=salt)

    def _result(self, ticket: int) -> int:
        (done,) = [done for done in self._store.wait([ticket], _WAIT_MS) if done.ticket == ticket]
        return done.leading
