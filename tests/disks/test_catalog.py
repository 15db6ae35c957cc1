"""The catalog when all is well: batches that are whole and in order, and that a killed process leaves behind."""

import signal
import subprocess
import sys

import pytest

from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from tests.disks.catalogs import COMMIT_ROWS, commit_all, crashed_copy, read_all, some_rows


@pytest.fixture
def directory(tmp_path):
    opened = DiskDirectory(tmp_path / "disk", create=True)
    yield opened
    opened.close()


def test_is_empty_at_first(directory):
    catalog = Catalog(directory)
    assert read_all(catalog) == {}
    assert catalog.damage == []
    catalog.close()
    catalog.close()


def test_gives_back_what_was_committed(directory):
    rows = some_rows(200_000)
    catalog = Catalog(directory)
    commit_all(catalog, rows)
    assert read_all(catalog) == dict(rows)
    catalog.close()
    again = Catalog(directory)
    batches = list(again.batches())
    assert [row for batch in batches for row in batch] == sorted(rows)
    assert len(batches) > 1
    assert again.damage == []
    again.close()


def test_operations_take_effect_in_their_order(directory):
    catalog = Catalog(directory)
    catalog.commit([(b"b1", b"old"), (b"b1", None), (b"b2", b"old"), (b"b2", None), (b"b2", b"new"), (b"b3", None)])
    assert read_all(catalog) == {b"b2": b"new"}
    catalog.commit([])
    catalog.delete([b"b2", b"never there"])
    assert read_all(catalog) == {}
    catalog.close()


def test_deletes_more_than_a_batch(directory):
    rows = some_rows(10_000)
    catalog = Catalog(directory)
    catalog.commit(rows)
    catalog.delete([key for key, _ in rows[1:]])
    assert read_all(catalog) == dict(rows[:1])
    catalog.close()


def test_survives_kill_9(tmp_path):
    script = """
import os, signal, sys
from kvstore.disks import DiskDirectory
from kvstore.disks.catalog import Catalog
from tests.disks.catalogs import some_rows
catalog = Catalog(DiskDirectory(sys.argv[1], create=True))
rows = some_rows(20_000)
for first in range(0, len(rows), 1000):
    catalog.commit(rows[first : first + 1000])
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    directory = DiskDirectory(tmp_path, create=False)
    catalog = Catalog(directory)
    assert read_all(catalog) == dict(some_rows(20_000))
    assert catalog.damage == []
    catalog.close()
    directory.close()


def test_a_torn_end_of_the_log_costs_only_the_commit_that_was_under_way(directory, tmp_path):
    rows = some_rows(3 * COMMIT_ROWS)
    catalog = Catalog(directory)
    commit_all(catalog, rows)
    crashed = crashed_copy(catalog, directory, tmp_path / "crashed")
    catalog.close()
    (log,) = (crashed / "catalog").glob("*.log")
    content = log.read_bytes().rstrip(b"\0")
    log.write_bytes(content[:-100])
    torn_directory = DiskDirectory(crashed, create=False)
    torn = Catalog(torn_directory)
    assert read_all(torn) == dict(rows[: 2 * COMMIT_ROWS])
    assert torn.damage == []
    torn.close()
    torn_directory.close()
