"""Disks that fill up, vanish or report errors: the node serves from memory, says so, loses nothing, and recovers."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from tests.node_process import GRACE_S, wait_until
from tests.support.blocks import assert_same, blocks, chain
from tests.support.disk_node import CONFIG, MIB, DiskNode
from tests.support.file_systems import small_file_system
from tests.support.loop_device import LoopFileSystem

SIZE = 10_000
COUNT = 4
TIMEOUT_MS = 5_000
HEALING_S = 30.0
# Rows enough to fill whatever the catalog had reserved for itself.
PUTS_MAX = 2_000


class Patient:
    """A node whose disk is in and out of trouble, and chains by what they were answered."""

    def __init__(self, node: DiskNode, store: kvstore.Client) -> None:
        self.node = node
        self.store = store
        self.durable: list[np.ndarray] = []
        self.in_memory: list[np.ndarray] = []
        self._names = (chain(f"trouble {number}", COUNT) for number in itertools.count())

    def put(self, *, durable: bool) -> set[Status]:
        names = next(self._names)
        started_s = time.monotonic()
        put = self.store.put(names, blocks(names, SIZE), durable=durable, timeout_ms=TIMEOUT_MS)
        assert time.monotonic() - started_s < TIMEOUT_MS / 1000 + GRACE_S
        answers = {Status(cause) for cause in put.cause.tolist()}
        assert answers <= {Status.OK, Status.NOT_DURABLE}, put
        (self.durable if durable and answers == {Status.OK} else self.in_memory).append(names)
        return answers

    def put_until_trouble(self) -> None:
        for _ in range(PUTS_MAX):
            if Status.NOT_DURABLE in self.put(durable=True):
                break
        assert self.node.counters["nvme_disks_in_trouble"] == 1

    def assert_serves_from_memory(self) -> None:
        assert self.put(durable=False) == {Status.OK}
        assert self.put(durable=True) == {Status.NOT_DURABLE}
        self.assert_there(self.in_memory)
        started_s = time.monotonic()
        assert not self.store.flush(timeout_ms=500)
        assert time.monotonic() - started_s < 0.5 + GRACE_S
        assert self.node.counters["nvme_disks_in_trouble"] == 1

    def assert_there(self, chains) -> None:
        buffers = np.zeros((COUNT, SIZE), np.uint8)
        for names in chains:
            got = self.store.get(names, buffers)
            assert got.all_ok, got
            assert_same(buffers, np.stack(blocks(names, SIZE)))

    def recover(self) -> None:
        self.node.wait_for_counters("the disk is healthy", HEALING_S, nvme_disks_in_trouble=0)
        assert self.store.flush(timeout_ms=30_000)
        assert self.put(durable=True) == {Status.OK}

    def restart(self) -> None:
        self.node.restart()
        wait_until(lambda: self.store.stats()["client"]["connected"], "the client is back", 20)


@contextlib.contextmanager
def patient_of(node):
    with node, kvstore.connect(node.url, config=CONFIG) as store:
        yield Patient(node, store)


@pytest.fixture
def patient(tmp_path):
    with patient_of(DiskNode(tmp_path)) as patient:
        assert patient.put(durable=True) == {Status.OK}
        yield patient


def assert_all_survives(patient):
    patient.recover()
    patient.node.kill()
    patient.restart()
    patient.assert_there(patient.durable + patient.in_memory)
    assert [line for line in patient.node.log.splitlines() if "can be written again" in line]


def assert_stops(patient):
    """A disk that takes nothing more does not keep the node from ending."""
    started_s = time.monotonic()
    assert patient.node.stop() == 0
    assert time.monotonic() - started_s < 10


class TestFull:
    def test_a_file_system_without_space_for_the_catalog(self, tmp_path):
        with small_file_system(tmp_path / "small", 40 * MIB) as small:
            node = DiskNode(tmp_path, disks=[small.path / "disk"], disk_size="16MiB")
            with patient_of(node) as patient:
                assert patient.put(durable=True) == {Status.OK}
                ballast = small.fill()
                patient.put_until_trouble()
                patient.assert_serves_from_memory()
                ballast.unlink()
                assert_all_survives(patient)

    def test_a_file_system_without_space_for_the_extents(self, tmp_path):
        with small_file_system(tmp_path / "small", 16 * MIB) as small:
            node = DiskNode(tmp_path, disks=[small.path / "disk"], disk_size="64MiB")
            node.launch()
            assert node.wait() != 0
            assert "o space left" in node.log, node.log
            assert "Traceback" not in node.log
            assert not list((small.path / "disk").glob("extents-*")), "what cannot be used is left behind"


class TestReadOnly:
    def test_a_file_system_that_turns_read_only(self, tmp_path):
        """It stays so until it is checked, for which the node has to stop, which it does in good time."""
        with LoopFileSystem(tmp_path / "loop", 64 * MIB) as loop:
            node = DiskNode(tmp_path, disks=[loop.path / "disk"], disk_size="32MiB")
            with patient_of(node) as patient:
                for _ in range(5):
                    assert patient.put(durable=True) == {Status.OK}
                loop.turn_read_only()
                patient.put_until_trouble()
                patient.assert_serves_from_memory()
                assert_stops(patient)
                loop.mend()
                patient.restart()
                patient.assert_there(patient.durable)
                assert patient.put(durable=True) == {Status.OK}

    def test_a_disk_that_is_read_only_from_the_start(self, tmp_path):
        """A node does not start on a disk that it cannot write."""
        with LoopFileSystem(tmp_path / "loop", 64 * MIB) as loop:
            node = DiskNode(tmp_path, disks=[loop.path / "disk"], disk_size="32MiB")
            with patient_of(node) as patient:
                assert patient.put(durable=True) == {Status.OK}
                assert patient.node.stop() == 0
                loop.turn_read_only()
                node.launch()
                assert node.wait() == 1
                assert "ead-only file system" in node.log, node.log
                assert "Traceback" not in node.log
                loop.mend()
                patient.restart()
                patient.assert_there(patient.durable)


class TestGone:
    def test_a_directory_that_goes_and_comes_back(self, patient):
        disk = patient.node.disk
        disk.rename(disk.with_name("away"))
        patient.put_until_trouble()
        patient.assert_serves_from_memory()
        disk.with_name("away").rename(disk)
        assert_all_survives(patient)

    def test_a_directory_that_was_deleted(self, patient):
        shutil.rmtree(patient.node.disk)
        patient.put_until_trouble()
        patient.assert_serves_from_memory()
        assert_stops(patient)
        patient.restart()
        assert patient.node.counters["nvme_blocks"] == 0

    def test_a_file_system_that_is_unmounted_and_mounted_again(self, tmp_path):
        with small_file_system(tmp_path / "small", 40 * MIB) as small:
            mount = tmp_path / "mount"
            mount.mkdir()
            bind = ("mount", "--bind", str(small.path), str(mount))
            subprocess.run(bind, check=True)
            try:
                node = DiskNode(tmp_path, disks=[mount / "disk"], disk_size="16MiB")
                with patient_of(node) as patient:
                    assert patient.put(durable=True) == {Status.OK}
                    subprocess.run(("umount", "-l", str(mount)), check=True)
                    patient.put_until_trouble()
                    patient.assert_serves_from_memory()
                    subprocess.run(bind, check=True)
                    assert_all_survives(patient)
            finally:
                subprocess.run(("umount", "-l", str(mount)), check=False)


# All are handled alike, so that one of each step is enough for every commit.
ERRORS = [
    *(("disk.write", "EIO"), ("disk.sync", "EIO")),
    *(pytest.param("disk.write", error, marks=pytest.mark.slow) for error in ("ENOSPC", "EROFS", "EDQUOT")),
    *(pytest.param("disk.sync", error, marks=pytest.mark.slow) for error in ("ENOSPC", "EDQUOT")),
]


class TestErrors:
    @pytest.mark.parametrize(("step", "number"), [("disk.write", 7), ("disk.sync", 2)])
    def test_once(self, tmp_path, step, number):
        """Nobody is told that a block is durable before it is, and everything arrives after all."""
        with patient_of(DiskNode(tmp_path).fail_at(f"{step}=error:EIO@{number}")) as patient:
            for _ in range(4):
                patient.put(durable=True)
            assert patient.node.counters["nvme_troubles"] > 0, "the error was not met"
            patient.recover()
            patient.node.kill()
            patient.restart()
            patient.assert_there(patient.durable + patient.in_memory)

    @pytest.mark.parametrize(("step", "error"), ERRORS)
    def test_from_then_on(self, tmp_path, step, error):
        with patient_of(DiskNode(tmp_path).fail_at(f"{step}=error:{error}@10+")) as patient:
            patient.put_until_trouble()
            patient.assert_serves_from_memory()
            assert_stops(patient)
            patient.restart()
            patient.assert_there(patient.durable)

    def test_of_reading(self, tmp_path):
        """A block that cannot be read is a miss, then and later, and no other is."""
        with patient_of(DiskNode(tmp_path)) as patient:
            for _ in range(4):
                patient.put(durable=True)
            patient.node.kill()
            patient.node.restart("disk.read=error:EIO@6")
            wait_until(lambda: patient.store.stats()["client"]["connected"], "the client is back", 20)
            names = np.concatenate(patient.durable)
            buffers = np.full((len(names), SIZE), 0xEE, np.uint8)
            got = patient.store.get(names, buffers)
            assert sorted(got.cause.tolist()) == [Status.OK] * (len(names) - 1) + [Status.MISS]
            for buffer, content, ok in zip(buffers, blocks(names, SIZE), got.ok, strict=True):
                assert_same(buffer, content if ok else np.full(SIZE, 0xEE, np.uint8))
            patient.node.evict(1 << 40)
            assert patient.store.get(names, buffers).cause.tolist() == got.cause.tolist()
            counters = patient.node.counters
            assert (counters["nvme_read_errors"], counters["nvme_quarantined_blocks"]) == (1, 1)
