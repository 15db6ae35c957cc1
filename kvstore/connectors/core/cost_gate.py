"""Whether loading a hit is worth it: what it would take to load beside what it would take to compute."""

from __future__ import annotations

import threading

__all__ = ["CostGate"]

# Of what was learnt, how much is left after one more sample.
_MEMORY = 0.95
# One in so many hits that are not worth it is loaded all the same, so that a store that has become faster is noticed.
_TRIAL_EVERY = 32


class CostGate:
    """Learns how fast the store loads and the engine computes, and compares. Thread-safe.

    A load takes a time of its own and more by the byte: both are fitted to recent loads by weighted least squares. As
    long as either speed is unknown, or where the gate is off, everything is worth loading.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._lock = threading.Lock()
        # Weighted sums over loads: of 1, bytes, bytes**2, seconds, bytes * seconds.
        self._loads = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._computed_tokens = 0.0
        self._computing_s = 0.0
        self._refused = 0
        self.taken = 0
        self.skipped = 0

    def note_load(self, nbytes: int, seconds: float) -> None:
        """A load of so many bytes took so long, from submission to completion."""
        size = float(nbytes)
        sample = (1.0, size, size * size, seconds, size * seconds)
        with self._lock:
            self._loads = tuple(_MEMORY * old + new for old, new in zip(self._loads, sample, strict=True))  # type: ignore[assignment]

    def note_prefill(self, tokens: int, seconds: float) -> None:
        """The engine computed the KV of so many tokens in so long."""
        with self._lock:
            self._computed_tokens = _MEMORY * self._computed_tokens + tokens
            self._computing_s = _MEMORY * self._computing_s + seconds

    def load_seconds(self, nbytes: int) -> float | None:
        """How long a load of so many bytes would take; None before there was one."""
        with self._lock:
            weight, size, size2, seconds, size_seconds = self._loads
        if weight == 0:
            return None
        spread = weight * size2 - size * size
        slope = (weight * size_seconds - size * seconds) / spread if spread > 1e-6 * weight * size2 else -1.0
        if slope <= 0:  # sizes were all alike, or noise hides what they cost
            return seconds / size * nbytes if size > 0 else seconds / weight
        fixed = (seconds - slope * size) / weight
        # No load takes less than nothing: then the best line is the one through the origin.
        return fixed + slope * nbytes if fixed > 0 else size_seconds / size2 * nbytes

    def prefill_seconds(self, tokens: int) -> float | None:
        """How long computing so many tokens would take; None before any were."""
        with self._lock:
            if self._computed_tokens == 0 or self._computing_s == 0:
                return None
            return tokens * self._computing_s / self._computed_tokens

    def is_worth_loading(self, *, tokens: int, nbytes: int) -> bool:
        """Decides on a hit of so many tokens, which lie in so many bytes, and counts the decision."""
        worth = self._compare(tokens, nbytes)
        with self._lock:
            if not worth:
                self._refused += 1
                worth = self._refused % _TRIAL_EVERY == 0
            if worth:
                self.taken += 1
            else:
                self.skipped += 1
        return worth

    def _compare(self, tokens: int, nbytes: int) -> bool:
        if not self._enabled:
            return True
        loading_s, computing_s = self.load_seconds(nbytes), self.prefill_seconds(tokens)
        return loading_s is None or computing_s is None or loading_s < computing_s
