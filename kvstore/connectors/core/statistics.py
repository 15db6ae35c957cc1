"""What a connector has done since the start, as numbers that only grow."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Statistics"]

_NAMES = (
    *("lookups", "lookup_blocks", "lookup_hit_blocks", "lookup_seconds"),
    *("loads", "load_blocks", "load_good_blocks", "load_bytes", "load_seconds"),
    *("saves", "save_blocks", "save_good_blocks", "save_bytes", "save_seconds"),
    *("deletes", "delete_blocks", "delete_good_blocks", "delete_seconds"),
    *("saves_dropped", "save_dropped_blocks", "errors"),
)
_PREFIXES = {"lookup": "lookup", "exists": "lookup", "load": "load", "save": "save", "delete": "delete"}


class Statistics:
    """Counters by name; seconds are summed over requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter(dict.fromkeys(_NAMES, 0))

    def count(self, **added: float) -> None:
        """Adds to counters by name."""
        with self._lock:
            self._values.update(added)

    def submitted(self, kind: str, blocks: int) -> None:
        """A request for so many blocks begins."""
        prefix = _PREFIXES[kind]
        self.count(**{f"{prefix}s": 1, f"{prefix}_blocks": blocks})

    def ended(self, kind: str, good_blocks: int, nbytes: int, seconds: float) -> None:
        """... and ends; `nbytes` is what it was meant to move."""
        prefix = _PREFIXES[kind]
        good = "lookup_hit_blocks" if prefix == "lookup" else f"{prefix}_good_blocks"
        added: dict[str, float] = {good: good_blocks, f"{prefix}_seconds": seconds}
        if prefix in {"load", "save"}:
            added[f"{prefix}_bytes"] = nbytes
        self.count(**added)

    def values(self) -> dict[str, int | float]:
        """All counters."""
        with self._lock:
            return dict(self._values)
