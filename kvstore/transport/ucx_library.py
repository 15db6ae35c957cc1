"""Which UCX this process uses, and loading it before the native module needs it.

The native module names its dependency by soname (`libucp.so.0`) and carries no path. Whatever library of that soname is
in the process first satisfies it, so one is chosen and loaded here. In order:

1. `KVSTORE_UCX_LIBRARY`, the path of a libucp.so.0 or of the folder that holds it;
2. a UCX that this process has loaded already (two copies in one process hang or crash each other);
3. a system UCX, where the machine has RDMA devices: the wheel is built without RDMA;
4. the `libucx` wheel.

Nothing is written to the environment: another user of UCX in the same process keeps its own settings.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvstore.errors import UnsupportedError

__all__ = ["FLOOR", "SETTING", "UcxLibrary", "has_rdma_devices", "load"]

SETTING = "KVSTORE_UCX_LIBRARY"
# Older releases fall back to a software emulation five times slower whenever a dead peer must be noticed.
FLOOR = (1, 21)

_SONAME = "libucp.so.0"
# Each before its dependents, so that none is looked for anywhere but beside the chosen libucp. libucm and libucs need
# each other; the loader brings it along with libucs.
_LOAD_ORDER = ("libucs.so.0", "libuct.so.0", _SONAME)
_PROBE_TIMEOUT_S = 10.0
# Loading a library to ask its version would occupy the soname for good, so a child process asks.
_PROBE = f"""
import ctypes
library = ctypes.CDLL({_SONAME!r})
numbers = [ctypes.c_uint() for _ in range(3)]
library.ucp_get_version(*map(ctypes.byref, numbers))
path = next(line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/libucp.so" in line)
print(*(number.value for number in numbers), path)
"""


@dataclass(frozen=True)
class UcxLibrary:
    """The UCX in this process. `origin` is one of "setting", "loaded", "system" and "wheel"."""

    path: str
    version: tuple[int, int, int]
    origin: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.origin}: {self.path})"


@functools.cache
def load() -> UcxLibrary:
    """Chooses a UCX and loads it into the process; later calls return the first answer.

    Raises `UnsupportedError` when there is none, or the one that must be taken is older than `FLOOR`.
    """
    setting = os.environ.get(SETTING)
    if setting:
        return _load_from(_setting_path(setting), "setting")
    loaded = _loaded_path()
    if loaded is not None:
        return _checked(ctypes.CDLL(loaded, os.RTLD_NOLOAD | os.RTLD_NOW), loaded, "loaded")
    for path, origin in _candidates():
        return _load_from(path, origin)
    raise UnsupportedError(
        f"no UCX {_text(FLOOR)} or newer was found; install the libucx-cu12 package, or set {SETTING} to the path of "
        f"{_SONAME}"
    )


def _candidates() -> Iterator[tuple[Path, str]]:
    if has_rdma_devices():
        system = _system_path()
        if system is not None:
            yield system, "system"
    wheel = _wheel_path()
    if wheel is not None:
        yield wheel, "wheel"


def has_rdma_devices(folder: Path = Path("/sys/class/infiniband")) -> bool:
    """Whether the kernel shows any RDMA device."""
    return folder.is_dir() and any(folder.iterdir())


def _setting_path(setting: str) -> Path:
    path = Path(setting)
    path = path / _SONAME if path.is_dir() else path
    if not path.is_file():
        raise UnsupportedError(f"{SETTING} is {setting!r}, which is neither {_SONAME} nor a folder that holds it")
    return path


def _loaded_path(maps: Path = Path("/proc/self/maps")) -> str | None:
    for line in maps.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and Path(fields[5]).name.startswith(_SONAME):
            return fields[5]
    return None


def _system_path() -> Path | None:
    """The UCX that the system's loader finds, if it is new enough."""
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major, minor, _, path = answer.stdout.strip().split(" ", 3)
    return Path(path) if (int(major), int(minor)) >= FLOOR else None


def _wheel_path() -> Path | None:
    spec = importlib.util.find_spec("libucx")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "lib" / _SONAME
    return path if path.is_file() else None


def _load_from(path: Path, origin: str) -> UcxLibrary:
    """Loads the library with its siblings; they stay out of the global symbol table (RTLD_LOCAL)."""
    try:
        for name in _LOAD_ORDER[:-1]:
            if (sibling := path.parent / name).is_file():
                ctypes.CDLL(str(sibling), ctypes.RTLD_LOCAL)
        library = ctypes.CDLL(str(path), ctypes.RTLD_LOCAL)
    except OSError as error:
        raise UnsupportedError(f"UCX cannot be loaded from {path} ({origin}): {error}") from error
    return _checked(library, str(path), origin)


def _checked(library: ctypes.CDLL, path: str, origin: str) -> UcxLibrary:
    numbers = [ctypes.c_uint() for _ in range(3)]
    library.ucp_get_version(*(ctypes.byref(number) for number in numbers))
    major, minor, patch = (number.value for number in numbers)
    if (major, minor) < FLOOR:
        remedy = "connect before the package that loaded it" if origin == "loaded" else f"set {SETTING} to a newer one"
        raise UnsupportedError(
            f"UCX {major}.{minor}.{patch} ({origin}: {path}) is older than {_text(FLOOR)}, the oldest usable; {remedy}"
        )
    return UcxLibrary(path, (major, minor, patch), origin)


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
