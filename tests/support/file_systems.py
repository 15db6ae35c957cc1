"""File systems of their own that are small enough to fill up, where this process may mount."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["SmallFileSystem", "small_file_system"]


class SmallFileSystem:
    """A tmpfs of a few MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size_bytes: int) -> None:
        _run("mount", "-o", f"remount,size={size_bytes}", str(self.path))

    def fill(self) -> Path:
        """Writes a file until there is no space left; deleting it makes room again."""
        ballast = self.path / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as opened:
            while True:
                opened.write(bytes(4096))
        return ballast


@contextlib.contextmanager
def small_file_system(path: Path, size_bytes: int) -> Iterator[SmallFileSystem]:
    """Mounts one at `path` while the `with` statement lasts; skips the test where mounting is not permitted."""
    path.mkdir(exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield SmallFileSystem(path)
    finally:
        _run("umount", "-l", str(path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
