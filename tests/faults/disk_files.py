"""What happens to files on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["FLIPS", "flip", "lose", "truncate"]

FLIPS = np.random.default_rng(35)


def lose(file: Path) -> None:
    file.unlink()


def truncate(file: Path, size: int | None = None) -> None:
    """To `size` bytes, or to half."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2 if size is None else size)


def flip(file: Path, at: int | None = None) -> None:
    """One bit of the byte at `at`, or of the one in the middle; an empty file stays as it is."""
    size = file.stat().st_size
    if size == 0:
        return
    with file.open("r+b") as opened:
        place = size // 2 if at is None else at
        opened.seek(place)
        value = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([value ^ 0x10]))
