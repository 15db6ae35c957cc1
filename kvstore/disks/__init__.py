"""The disks of a node as files and rows: whose directory it is, its catalog in RocksDB, recovery, commits.

For every process that has a node of its own, which is `kvstore serve` and embedded stores, and for `kvstore fsck`.
"""

from kvstore.disks.catalog import Catalog, CatalogReader
from kvstore.disks.disk_directory import DiskDirectory
from kvstore.disks.node_disks import NodeDisks

__all__ = ["Catalog", "CatalogReader", "DiskDirectory", "NodeDisks"]
