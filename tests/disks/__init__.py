"""Directories, catalogs and restarts: what a node keeps on its disks."""
