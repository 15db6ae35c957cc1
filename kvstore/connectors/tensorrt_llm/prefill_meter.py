"""How fast the engine computes prompts, read off the rhythm of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvstore.connectors.core import CostGate

__all__ = ["PrefillMeter"]

# Of a step with fewer tokens of prompts the time says little about them.
_TOKENS_MIN = 256


class PrefillMeter:
    """Tells the gate how long steps with prompts take: until the next one, if that goes on with the same requests."""

    def __init__(self, gate: CostGate, clock: Callable[[], float]) -> None:
        self._gate = gate
        self._clock = clock
        self._started_s = 0.0
        self._tokens = 0
        self._requests: set[int] = set()

    def step(self, scheduler_output: Any) -> None:
        """A step begins."""
        now_s = self._clock()
        going_on = {data.request_id for data in scheduler_output.cached_requests}
        # Otherwise the engine may have been idle in between.
        if self._tokens >= _TOKENS_MIN and self._requests & going_on:
            self._gate.note_prefill(self._tokens, now_s - self._started_s)
        everything = [*scheduler_output.new_requests, *scheduler_output.cached_requests]
        prompts = [data for data in everything if data.num_scheduled_tokens > 1]
        self._started_s = now_s
        self._tokens = sum(data.num_scheduled_tokens for data in prompts)
        self._requests = {data.request_id for data in prompts}
