"""What a forked child inherits: nothing that it may use.

UCX, gRPC and the native core run threads and hold locks that a fork copies in whatever state they were. So in the child
every owner of such things is abandoned: it refuses further use, and what it owned is never destroyed, because a
destructor would wait for threads that do not exist there. Start workers with the spawn method and connect in each.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol

from kvstore.errors import UnsupportedError

__all__ = ["FORKED", "Owner", "keep_forever", "refuse_in_child", "watch"]

FORKED = "this process is a fork of one that was using kvstore; start workers with the spawn method and connect in each"


class Owner(Protocol):
    """Something that owns native objects."""

    def abandon(self) -> None:
        """Refuses further use and gives up what it owns with `keep_forever`. Runs in the child; must take no lock."""


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
_used = False
_refused = False


def watch(owner: Owner) -> None:
    """Abandons `owner` in every child that is forked while it lives."""
    global _used
    _used = True
    _owners.add(owner)


def refuse_in_child() -> None:
    """Raises `UnsupportedError` in a process forked from one that has used the native core or gRPC."""
    if _refused:
        raise UnsupportedError(f"kvstore cannot be used here: {FORKED}")


def keep_forever(thing: object) -> None:
    """Takes a reference that is never given back, so that the destructor does not even run when the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _abandon_all() -> None:
    global _refused
    _refused = _used
    for owner in list(_owners):
        owner.abandon()


os.register_at_fork(after_in_child=_abandon_all)
