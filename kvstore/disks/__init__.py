"""The disks of a node as files and rows: whose directory it is, its catalog in RocksDB, recovery, commits.

For every process that has a node of its own, which is `kvstore serve` and embedded stores, and for `kvstore fsck`.
RocksDB is loaded with `kvstore.disks.catalog` alone, and so by nodes with a disk only.
"""

from kvstore.disks.disk_directory import DiskDirectory
from kvstore.disks.node_disks import NodeDisks

__all__ = ["DiskDirectory", "NodeDisks"]
