"""Rows for catalogs, and catalogs as a crash leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from tests.node_process import wait_until

__all__ = ["COMMIT_ROWS", "commit_all", "crashed_copy", "read_all", "some_rows"]

COMMIT_ROWS = 1000


def some_rows(count: int, seed: int = 1) -> list[tuple[bytes, bytes]]:
    """Rows of blocks by their form; what they say is noise."""
    noise = np.random.default_rng(seed).bytes(count * 80)
    return [(b"b" + noise[at : at + 32], noise[at + 32 : at + 80]) for at in range(0, len(noise), 80)]


def commit_all(catalog: Catalog, rows: list[tuple[bytes, bytes]]) -> None:
    for first in range(0, len(rows), COMMIT_ROWS):
        catalog.commit(rows[first : first + COMMIT_ROWS])


def read_all(catalog: Catalog) -> dict[bytes, bytes]:
    return {key: value for batch in catalog.batches() for key, value in batch}


def crashed_copy(catalog: Catalog, directory: DiskDirectory, target: Path) -> Path:
    """A disk directory with the files that `directory` has now, while it is in use: what kill -9 would leave."""
    database = catalog._database
    busy = [f"rocksdb.{name}" for name in ("num-running-flushes", "num-running-compactions", "compaction-pending")]
    wait_until(lambda: not any(database.property_int_value(name) for name in busy), "RocksDB has nothing to do")
    tables = {file["name"].strip("/") for file in database.live_files()}
    shutil.copytree(directory.path, target)
    for file in (target / "catalog").glob("*.sst"):
        if file.name not in tables:  # it was not deleted yet
            file.unlink()
    return target
