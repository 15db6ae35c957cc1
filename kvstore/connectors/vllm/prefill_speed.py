"""How fast the engine computes, as its scheduler process can see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from kvstore.connectors.core import CostGate

__all__ = ["PrefillSpeed"]


class PrefillSpeed:
    """Tells the gate how long chunks took from being scheduled to being handed over for saving. For one thread.

    That is longer than computing them by up to two steps of the engine, and with many requests in a batch it is what
    one of them waits: both are what a request without a hit would wait too.
    """

    def __init__(self, gate: CostGate, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = gate
        self._clock = clock
        self._since_s: dict[str, float] = {}

    def scheduled(self, requests: Iterable[str]) -> None:
        """These requests begin to be computed."""
        now_s = self._clock()
        self._since_s.update(dict.fromkeys(requests, now_s))

    def computed(self, request: str, tokens: int) -> None:
        """So many tokens of the prompt are there now."""
        since_s = self._since_s.get(request)
        if since_s is not None and tokens:
            now_s = self._clock()
            self._gate.note_prefill(tokens, now_s - since_s)
            self._since_s[request] = now_s

    def finished(self, request: str) -> None:
        """Nothing more comes of this request."""
        self._since_s.pop(request, None)
