"""The thread that brings a disk's rows from the node into its catalog."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from kvstore.disks.disk_directory import DiskDirectory

if TYPE_CHECKING:
    from kvstore import _native
    from kvstore.disks.catalog import Catalog

__all__ = ["CommitThread"]

_log = logging.getLogger("kvstore.disks")

# Being woken does not depend on it.
_WAIT_MS = 500
# A node that is being stopped answers at once.
_BREATH_S = 0.001
# Between attempts while the disk refuses: opening RocksDB anew holds the GIL for some 50 ms.
_FIRST_PAUSE_S = 0.1
_PAUSE_S_MAX = 2.0


class CommitThread(threading.Thread):
    """Commits what the node has for one disk, in order, until `finish`.

    What the catalog refuses goes back to the node, which offers it again; the pauses between attempts double.
    """

    def __init__(self, node: _native.Node, number: int, directory: DiskDirectory, catalog: Catalog) -> None:
        super().__init__(name=f"kvstore catalog {directory.path}", daemon=True)
        self._node = node
        self._number = number
        self._directory = directory
        self._catalog = catalog
        self._finishing = threading.Event()
        self._failures = 0

    def finish(self) -> None:
        """Lets the thread end once it has committed what a stopped node has left, or could not."""
        self._finishing.set()

    def run(self) -> None:
        """Commits. Errors of the catalog end nothing; any other is a defect and is seen as one."""
        while True:
            commit = self._node.next_commit(self._number, _WAIT_MS)
            if commit is not None and self._carry_out(commit):
                continue
            if self._finishing.wait(_BREATH_S):
                return

    def _carry_out(self, commit: _native.Commit) -> bool:
        try:
            self._catalog.commit(commit.operations)
        except OSError as error:
            self._node.finish_commit(self._number, commit.id, str(error))
            self._note_failure(error)
            self._finishing.wait(min(_PAUSE_S_MAX, _FIRST_PAUSE_S * 2.0**self._failures))
            return False
        self._node.finish_commit(self._number, commit.id, "")
        self._note_success()
        return True

    def _note_failure(self, error: OSError) -> None:
        if self._failures == 0:
            _log.error(
                "disk %s: %s. Blocks are kept in memory only until that is mended; the node goes on trying",
                self._directory.path,
                error,
            )
        self._failures = min(self._failures + 1, 16)

    def _note_success(self) -> None:
        if self._failures:
            _log.warning("disk %s: the catalog can be written again", self._directory.path)
        self._failures = 0
