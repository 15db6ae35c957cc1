"""What a session may do, as a bit set that the native core knows."""

from __future__ import annotations

from typing import Final

__all__ = ["ALL_VERBS", "DELETE", "READ", "WRITE"]

READ: Final = 1
WRITE: Final = 2
DELETE: Final = 4
ALL_VERBS: Final = READ | WRITE | DELETE
