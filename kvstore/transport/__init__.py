"""From Python to the wire: loading the native module, saying hello to a node, choosing a lane.

`native()` is the one place that imports `kvstore._native`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from kvstore.errors import UnsupportedError
from kvstore.transport import ucx_library

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["NativeModule", "native"]


class NativeModule(Protocol):
    """What `kvstore._native` offers; its stub has the contract."""

    WIRE_VERSION: int
    Node: type[_native.Node]
    Client: type[_native.Client]
    crc32c: Callable[[Any], int]
    crc32c_implementation: Callable[[], str]
    ucx_version: Callable[[], str]
    Bounds: type[_native.Bounds]
    DiskBounds: type[_native.DiskBounds]
    DiskCheck: type[_native.DiskCheck]
    Replayer: type[_native.Replayer]


@functools.cache
def native() -> NativeModule:
    """The native module, with a UCX loaded before it. Raises `UnsupportedError` when either is missing."""
    ucx_library.load()
    try:
        module = importlib.import_module("kvstore._native")
    except ImportError as error:
        raise UnsupportedError(
            f"the native part of kvstore cannot be loaded ({error}); reinstall the package with pip on this machine"
        ) from error
    return cast(NativeModule, module)
