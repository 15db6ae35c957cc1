"""How long SGLang computes, as far as storage can see it: from a lookup that missed a page to the save of that page."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["PrefillTimes"]

_PROMPTS_MAX: Final = 1024
# A page that is saved later than this was not saved because it was computed.
_SECONDS_MAX: Final = 60.0


class PrefillTimes:
    """Time from a miss to the save of the same page. Used by two threads: one notes misses, one asks.

    Queueing and the copy to the host are in it, so computing looks slower than it is, and the gate that learns from it
    errs on the side of loading.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._missed: OrderedDict[str, float] = OrderedDict()

    def missed(self, page_hash: str) -> None:
        """The first page of a prompt that the store does not have."""
        self._missed[page_hash] = self._clock()
        while len(self._missed) > _PROMPTS_MAX:
            self._missed.popitem(last=False)

    def seconds_until(self, page_hash: str) -> float | None:
        """How long ago the page was missed, once; None where it was not, or too long ago."""
        since_s = self._missed.pop(page_hash, None)
        if since_s is None:
            return None
        seconds = self._clock() - since_s
        return seconds if seconds <= _SECONDS_MAX else None
