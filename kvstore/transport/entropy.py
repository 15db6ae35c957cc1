"""The seam of randomness: all that is drawn from the system is drawn here."""

from __future__ import annotations

import os
import random

__all__ = ["new_id", "new_jitter", "new_token"]

_TOKEN_BYTES = 32
_ID_BYTES = 8


def new_token() -> bytes:
    """A secret of the length that the data plane expects as a capability."""
    return os.urandom(_TOKEN_BYTES)


def new_id() -> str:
    """A name that no other process has: 16 hexadecimal digits."""
    return os.urandom(_ID_BYTES).hex()


def new_jitter() -> random.Random:
    """Random numbers that differ from those of every other process, so that none act in step."""
    return random.Random(os.urandom(_ID_BYTES))
