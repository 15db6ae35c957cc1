"""A file system in a file that turns read-only under its users, as ext4 does when it meets an error."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

import pytest

__all__ = ["LoopFileSystem"]

_ERRORS_CORRECTED = 1


class LoopFileSystem:
    """Mounted at `path` while the `with` statement lasts; skips the test where that is not permitted."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._image = path.with_name(f"{path.name}.image")
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        try:
            _run("mkfs.ext4", "-q", str(self._image))
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', error)}")
        return self

    def __exit__(self, *_: object) -> None:
        _run("umount", "-l", str(self.path))

    def turn_read_only(self) -> None:
        """At once, with files open for writing, which an ordinary remount refuses."""
        device = Path(_run("findmnt", "-n", "-o", "SOURCE", str(self.path)).strip())
        try:
            Path("/sys/fs/ext4", device.name, "trigger_fs_error").write_text("test")
        except OSError as error:
            pytest.skip(f"no error can be set off here: {error}")

    def mend(self) -> None:
        """Checks the file system and mounts it again; nobody may use it."""
        _run("umount", str(self.path))
        checked = subprocess.run(["e2fsck", "-fy", str(self._image)], capture_output=True, text=True, timeout=60)
        assert checked.returncode in {0, _ERRORS_CORRECTED}, checked
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
