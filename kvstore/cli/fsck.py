"""`kvstore fsck`"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kvstore.cli.fsck_report import DiskReport, Finding
from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog, CatalogReader
from kvstore.errors import ConfigError, KVStoreError
from kvstore.transport import native

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["run"]

CLEAN, DAMAGED, NOT_CHECKED = 0, 1, 2

_STEP_MS = 100


def run(path: Path, *, repair: bool, as_json: bool) -> int:
    """Checks a stopped node's disk directory and prints what was found; returns the exit status.

    0: clean, 1: damage was found (and mended, with `repair`), 2: it cannot be checked.
    """
    logging.getLogger("kvstore.disks").addHandler(logging.NullHandler())  # the report says all of it
    try:
        with contextlib.ExitStack() as opened:
            directory = DiskDirectory(path, create=False)
            opened.callback(directory.close)
            report = _check(directory, repair=repair, quiet=as_json)
    except (KVStoreError, OSError, ValueError) as error:
        print(f"kvstore fsck: {error}", file=sys.stderr)
        return NOT_CHECKED
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        Console(highlight=False).print(report)
    return CLEAN if report.is_clean else DAMAGED


def _check(directory: DiskDirectory, *, repair: bool, quiet: bool) -> DiskReport:
    started_s = time.monotonic()
    catalog = Catalog(directory) if repair else CatalogReader(directory)
    try:
        check = _open_extents(directory)
        with _progress(quiet) as progress:
            _read_catalog(catalog, check, progress)
            _read_blocks(check, progress)
        findings = [Finding(*finding) for finding in check.findings]
        if isinstance(catalog, Catalog):
            catalog.delete([finding.catalog_key for finding in findings])
            if check.damage:
                check.repair_extents()
    finally:
        catalog.close()
    return DiskReport(
        path=str(directory.path),
        disk_id=directory.disk_id.hex(),
        size_bytes=check.capacity_bytes,
        catalog_damage=catalog.damage,
        extent_damage=check.damage,
        sound_blocks=check.sound_blocks,
        sound_bytes=check.sound_bytes,
        sound_pins=check.sound_pins,
        findings=findings,
        repaired=repair,
        seconds=time.monotonic() - started_s,
    )


def _open_extents(directory: DiskDirectory) -> _native.DiskCheck:
    try:
        return native().DiskCheck(os.fspath(directory.path), directory.disk_id, directory.size_bytes)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the extent files cannot be read: {error}") from error


def _read_catalog(catalog: Catalog | CatalogReader, check: _native.DiskCheck, progress: Progress) -> None:
    task = progress.add_task("reading the catalog", total=None)
    for batch in catalog.batches():
        check.add(batch)
    progress.remove_task(task)


def _read_blocks(check: _native.DiskCheck, progress: Progress) -> None:
    task = progress.add_task("checking blocks", total=check.plan())
    while not check.read(_STEP_MS):
        progress.update(task, completed=check.bytes_read)
    progress.update(task, completed=check.bytes_read)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    pace = (TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, *pace, console=console, transient=True, disable=quiet or not console.is_terminal) as shown:
        yield shown
