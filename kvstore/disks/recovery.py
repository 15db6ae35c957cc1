"""Handing what the catalogs remember to a node that has not started yet."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvstore.config import format_bytes
from kvstore.disks.disk_directory import DiskDirectory

if TYPE_CHECKING:
    from kvstore import _native
    from kvstore.disks.catalog import Catalog

__all__ = ["recover"]

_log = logging.getLogger("kvstore.disks")


def recover(node: _native.Node, disks: Sequence[tuple[DiskDirectory, Catalog]]) -> None:
    """Rebuilds the node's index of its disks, and takes rows that it cannot use out of the catalogs.

    Says in the log what was found, what is lost and why. A disk that is damaged is not an error; what the system
    refuses is raised as `OSError`.
    """
    started_s = time.monotonic()
    rows = [_hand_over(node, number, *disk) for number, disk in enumerate(disks)]
    unusable = node.finish_recovery()
    for number, ((directory, catalog), dropped) in enumerate(zip(disks, unusable, strict=True)):
        catalog.delete([key for _, key in dropped])
        if node.disk_damage(number):
            node.damage_handled(number)
        reasons = collections.Counter(why for why, _ in dropped)
        causes = ", ".join(f"{count:,} {why}" for why, count in sorted(reasons.items()))
        lost = f"; rows dropped: {causes}" if causes else ""
        _log.info("disk %s: %s rows recovered%s", directory.path, f"{rows[number] - len(dropped):,}", lost)
    if any(rows):
        counters = node.stats()
        blocks, used = counters["nvme_blocks"], format_bytes(counters["nvme_used_bytes"])
        _log.info("%s blocks (%s) recovered in %.2f s", f"{blocks:,}", used, time.monotonic() - started_s)


def _hand_over(node: _native.Node, number: int, directory: DiskDirectory, catalog: Catalog) -> int:
    for line in node.disk_damage(number):
        _log.warning("disk %s: %s", directory.path, line)
    rows = 0
    for batch in catalog.batches():
        node.recover(number, batch)
        rows += len(batch)
    return rows
