"""Which chunks the store has: asked in one batch a scheduler step, remembered for each request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import LookupResult

from kvstore.connectors.core import Done, EngineStore

__all__ = ["Lookups"]

_HIT, _MISS, _RETRY = LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY


class Lookups:
    """Answers from what it knows; whatever is new goes to the store with the next `submit`. For one thread.

    `names` gives the `(n, 32)` keys of chunks, or those of every one of `ranks` after each other, all of which must be
    there. `is_worth` says of a request's context, the keys that it asked about in their order, and which of them are
    there, whether to load them at all.
    """

    def __init__(
        self,
        store: EngineStore,
        names: Callable[[Sequence[bytes]], Any],
        is_worth: Callable[[Any, Sequence[bytes], Sequence[bool]], bool] = lambda context, keys, there: True,
        ranks: Callable[[], int] = lambda: 1,
    ) -> None:
        self._store = store
        self._names = names
        self._is_worth = is_worth
        self._ranks = ranks
        self._contexts: dict[str, Any] = {}
        self._unasked: defaultdict[str, list[bytes]] = defaultdict(list)
        self._under_way: dict[int, dict[str, list[bytes]]] = {}
        self.answers: dict[str, dict[bytes, LookupResult]] = {}
        """By request and key: what vLLM asks again and again, so it is looked at without a call."""

    def begin(self, request: str, context: Any) -> None:
        """A request that may ask."""
        self._contexts[request] = context
        self.answers[request] = {}

    def forget(self, request: str) -> None:
        """... and that has ended, whatever is under way for it."""
        self.answers.pop(request, None)
        self._contexts.pop(request, None)
        self._unasked.pop(request, None)

    def ask(self, request: str, key: bytes) -> LookupResult:
        """For a key that has no answer yet: RETRY, and the store is asked; MISS for a request that is not known."""
        answers = self.answers.get(request)
        if answers is None:
            return _MISS
        answers[key] = _RETRY
        self._unasked[request].append(key)
        return _RETRY

    def correct(self, request: str, keys: Iterable[bytes]) -> None:
        """These chunks were said to be there and are not."""
        answers = self.answers.get(request)
        if answers is not None:
            answers.update(zip(keys, repeat(_MISS)))

    def submit(self) -> None:
        """Asks the store for everything new; does not wait."""
        if not self._unasked:
            return
        batch, self._unasked = self._unasked, defaultdict(list)
        keys = [key for asked in batch.values() for key in asked]
        self._under_way[self._store.exists(self._names(keys))] = batch

    def end(self, done: Done) -> bool:
        """Takes what the store answered; False where the completion belongs to somebody else."""
        batch = self._under_way.pop(done.ticket, None)
        if batch is None:
            return False
        there = np.logical_and.reduce(done.ok.reshape(self._ranks(), -1)).tolist()
        begin = 0
        for request, asked in batch.items():
            found = there[begin : begin + len(asked)]
            begin += len(asked)
            answers = self.answers.get(request)
            if answers is None:
                continue
            if any(found) and not self._is_worth(self._contexts[request], asked, found):
                found = [False] * len(asked)
            answers.update(zip(asked, [_HIT if one else _MISS for one in found], strict=True))
        return True
