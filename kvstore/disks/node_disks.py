"""The disks of a node of this process, from their locks to their last commits."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from kvstore.config import NodeConfig
from kvstore.disks.disk_directory import DiskDirectory
from kvstore.disks.recovery import recover
from kvstore.disks.write_back import CommitThread
from kvstore.errors import ConfigError
from kvstore.transport import fork

if TYPE_CHECKING:
    from kvstore import _native
    from kvstore.disks.catalog import Catalog

__all__ = ["NodeDisks"]

_log = logging.getLogger("kvstore.disks")


class NodeDisks:
    """Opens the directories and catalogs that the settings name; there may be none.

    Then, in this order: `node_options` for the node's constructor, `start`, and at the end `stop`. `stop` without
    `start` gives the directories back. Raises `ConfigError` for a disk that cannot be used.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._disks: list[tuple[DiskDirectory, Catalog]] = []
        self._threads: list[CommitThread] = []
        with contextlib.ExitStack() as opened:
            for path, _ in config.disks:
                directory = DiskDirectory(path, create=True)
                opened.callback(directory.close)
                catalog = _open_catalog(directory)
                opened.callback(catalog.close)
                self._disks.append((directory, catalog))
            self._opened = opened.pop_all()

    def node_options(self) -> dict[str, Any]:
        """What the node's constructor has to know."""
        sizes = [size_bytes for _, size_bytes in self._config.disks]
        return {
            "disks": [
                (os.fspath(directory.path), size_bytes, directory.disk_id, directory.size_bytes)
                for (directory, _), size_bytes in zip(self._disks, sizes, strict=True)
            ],
            "admission": self._config.admission,
            "disk_io": self._config.disk_io,
            "pin_share_percent": self._config.pin_share,
        }

    def start(self, node: _native.Node) -> None:
        """Gives the node what its disks remember, starts it, and begins to commit. Raises `ConfigError`."""
        try:
            recover(node, self._disks)
            for (directory, _), (_, size_bytes) in zip(self._disks, self._config.disks, strict=True):
                directory.remember_size(size_bytes)
        except OSError as error:
            raise ConfigError(f"the disks cannot be used: {error}") from error
        node.start()
        self._threads = [CommitThread(node, number, *disk) for number, disk in enumerate(self._disks)]
        for thread in self._threads:
            thread.start()

    @property
    def owns_current_thread(self) -> bool:
        """Whether the caller is one of the threads that `stop` waits for."""
        return threading.current_thread() in self._threads

    def stop(self, node: _native.Node) -> None:
        """Brings to disk what is not there yet, within `shutdown_flush_ms`, and stops the node. Idempotent."""
        threads, self._threads = self._threads, []
        node.stop_serving()  # what is acknowledged from here on would come too late
        if threads and not node.flush(self._config.shutdown_flush_ms):
            _log.warning(
                "not all blocks are on disk: %d ms (shutdown_flush_ms) were too short, or a disk refuses; "
                "those in memory alone are lost",
                self._config.shutdown_flush_ms,
            )
        node.stop()
        for thread in threads:
            thread.finish()
            thread.join()
        node.close()
        self.close()

    def close(self) -> None:
        """Gives the directories back. Idempotent."""
        self._opened.close()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        fork.keep_forever(self)
        for directory, _ in self._disks:
            directory.close()


def _open_catalog(directory: DiskDirectory) -> Catalog:
    from kvstore.disks.catalog import Catalog  # RocksDB: some MiB that processes without a disk do without

    try:
        return Catalog(directory)
    except OSError as error:
        raise ConfigError(f"disk directory {directory.path} cannot be used: {error}") from error
