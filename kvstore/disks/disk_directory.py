"""The directory of one disk: who it is, and to whom it belongs while a node runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from kvstore import __version__
from kvstore.errors import ConfigError
from kvstore.transport import native
from kvstore.transport.entropy import new_id

__all__ = ["FORMAT_VERSION", "DiskDirectory", "sync_directory"]

FORMAT_VERSION = 1

_IDENTITY_FILE = "kvstore-disk.json"
_IDENTITY_PART = "kvstore-disk.json.part"
_LOCK_FILE = "kvstore-disk.lock"
_FORMAT = "kvstore-disk"
_IDENTITY_BYTES_MAX = 64 << 10
# What a directory may hold and still count as empty: traces of a first start that was cut short, and what mkfs leaves.
_COUNTS_AS_EMPTY = frozenset({_IDENTITY_PART, _LOCK_FILE, "lost+found"})


class DiskDirectory:
    """A directory that this process owns until `close`, by a lock that the kernel drops with the process.

    Not thread-safe, but for `check_present`. Raises `ConfigError` for a directory that another process owns, that is
    not a directory of ours, whose format is newer or damaged, or that cannot be read and written. With `create`, a
    missing directory is made (its parent must exist: a disk that is not mounted is not replaced by a folder on another
    one) and an empty one is made ours; without, both are refused.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool) -> None:
        self.path = Path(path).absolute()
        with contextlib.ExitStack() as opened:
            try:
                self._refuse_strangers(create)
                self._lock = _take_lock(self.path)
                opened.callback(os.close, self._lock)
                is_ours = self.is_at(self.path)
                self._identity = self._read_identity() if is_ours else self._write_identity(_new_identity())
            except OSError as error:
                raise ConfigError(f"disk directory {self.path} cannot be used: {error.strerror or error}") from error
            self._opened = opened.pop_all()

    @staticmethod
    def is_at(path: str | os.PathLike[str]) -> bool:
        """Whether there is a disk directory, whoever owns it."""
        return (Path(path) / _IDENTITY_FILE).exists()

    @property
    def disk_id(self) -> bytes:
        """16 bytes, drawn once; every extent file of the disk carries them."""
        return bytes.fromhex(self._identity["disk_id"])

    @property
    def size_bytes(self) -> int:
        """How large the disk was when it was last in use; 0 if it never was."""
        return int(self._identity["bytes"])

    @property
    def catalog_path(self) -> Path:
        """Where the catalog lies."""
        return self.path / "catalog"

    @property
    def has_extents(self) -> bool:
        """Whether there is any file with bytes of blocks."""
        return any(self.path.glob("extents-*.kv"))

    def remember_size(self, size_bytes: int) -> None:
        """Keeps the disk's size for good. Raises `OSError`."""
        if size_bytes != self.size_bytes:
            self._identity = self._write_identity({**self._identity, "bytes": size_bytes})

    def check_present(self) -> None:
        """Raises `OSError` when the path no longer leads to this directory: it was removed, or its disk unmounted.

        Files that are open can be written all the same, and nobody would ever find them again.
        """
        mine = os.fstat(self._lock)
        try:
            there = os.stat(self.path / _LOCK_FILE)
        except OSError as error:
            raise OSError(error.errno, f"disk directory {self.path} is gone: {error.strerror}") from error
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise OSError(errno.ENOENT, f"disk directory {self.path} is gone: another one has taken its place")

    def close(self) -> None:
        """Gives the directory up. Idempotent."""
        self._opened.close()

    def _refuse_strangers(self, create: bool) -> None:
        path = self.path
        if not path.exists():
            if not create:
                raise ConfigError(f"disk directory {path} does not exist")
            if not path.parent.is_dir():
                raise ConfigError(f"disk directory {path} cannot be made: there is no {path.parent}; is it mounted?")
            path.mkdir(mode=0o700)
            sync_directory(path.parent)
        if not path.is_dir():
            raise ConfigError(f"{path} is not a directory; a disk is given as a directory on it")
        names = {entry.name for entry in os.scandir(path)}
        if _IDENTITY_FILE in names or (create and names <= _COUNTS_AS_EMPTY):
            return
        example = repr(min(names - _COUNTS_AS_EMPTY)) if names - _COUNTS_AS_EMPTY else "nothing else"
        advice = "name an empty directory, or restore that file" if create else "name another, or restore that file"
        raise ConfigError(
            f"{path} is not a disk directory of kvstore: it has no {_IDENTITY_FILE}, and holds {example}; {advice}"
        )

    def _read_identity(self) -> dict[str, Any]:
        file = self.path / _IDENTITY_FILE
        with file.open("rb") as opened:
            identity = _parse(opened.read(_IDENTITY_BYTES_MAX))
        version = identity.get("format_version")
        if identity.get("format") == _FORMAT and isinstance(version, int) and version > FORMAT_VERSION:
            raise ConfigError(
                f"disk directory {self.path} has format {version}, written by {identity.get('created_by')}; this is "
                f"kvstore {__version__}, which knows formats up to {FORMAT_VERSION}: install a newer kvstore"
            )
        checksum = identity.pop("crc32c", None)
        if identity.get("format") != _FORMAT or checksum != _checksum(identity):
            raise ConfigError(f"{file} is damaged; restore it from a backup, or empty the directory to start anew")
        return identity

    def _write_identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        part = self.path / _IDENTITY_PART
        with part.open("w", encoding="utf-8") as opened:
            opened.write(json.dumps({**identity, "crc32c": _checksum(identity)}, indent=2) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(self.path / _IDENTITY_FILE)
        sync_directory(self.path)
        return identity


def sync_directory(path: Path) -> None:
    """Makes the names in a directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_identity() -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "format_version": FORMAT_VERSION,
        "disk_id": new_id() + new_id(),
        "bytes": 0,
        "created_by": f"kvstore {__version__}",
    }


def _take_lock(path: Path) -> int:
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"disk directory {path} belongs to one running node (process {holder}); stop it, or name another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _checksum(identity: dict[str, Any]) -> int:
    """CRC32C of the fields in order of their names, so that neither layout nor order of the file matters."""
    return native().crc32c(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
