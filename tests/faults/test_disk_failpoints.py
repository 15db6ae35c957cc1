"""A crash at every step of write-back, commit, free, reading and recovery, of a node under load."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import kvstore
from tests.faults.disk_journal import Journal
from tests.faults.disk_load import Load
from tests.support.disk_node import CONFIG, DiskNode, assert_accounts, assert_sound

SOURCE = Path(__file__).parents[2] / "native" / "src" / "base" / "failpoint.h"
FAILPOINTS = {
    name: bool(can_fail)
    for name, can_fail in re.findall(r'FailpointName\{"([^"]+)", "[^"]*"(, true)?\}', SOURCE.read_text())
}
SEED = 33

# Which passes through each are the last: the first, and later ones, when much else is under way.
CRASHES = {
    "write-back.reserved": (1, 40),
    "write-back.written": (1, 40),
    "write-back.synced": (1, 7),
    "catalog.before-commit": (1, 9),
    "catalog.after-commit": (1, 9),
    "write-back.published": (1, 7),
    "free.before-commit": (1, 4),
    "free.after-commit": (1, 4),
    "recovery.row": (1, 20),
    "recovery.done": (1,),
    "read.before": (1, 10),
    "read.after": (1, 10),
    "disk.write": (1, 40),
    "disk.read": (1, 10),
    "disk.sync": (1, 7),
}
OFTEN = [(name, number) for name, numbers in CRASHES.items() for number in numbers[-1:]]
FIRST = [(name, numbers[0]) for name, numbers in CRASHES.items() if len(numbers) > 1]


def test_every_failpoint_is_crashed_at():
    assert FAILPOINTS.keys() == CRASHES.keys(), "see CRASHES"
    assert any(FAILPOINTS.values())


class Survivor:
    """A disk that lives through all crashes, with what is known of it."""

    def __init__(self, folder: Path) -> None:
        self.node = DiskNode(folder, memory="8MiB", disk_size="128MiB")
        self.journal = Journal(evictable=False)
        self._loads = 0

    def work(self) -> Load:
        self._loads += 1
        return Load(self.node.url, self.journal, SEED * 1_000_000 + self._loads)

    def crash_at(self, rule: str) -> None:
        if self.node.is_running:
            self.node.kill()
        self.node.fail_at(rule)
        # Some come while it starts: what recovery had to tidy up is committed at once.
        if self.node.starts():
            with self.work():
                self.node.wait_for_crash()
        else:
            self.node.wait_for_crash()

    def check(self) -> None:
        with kvstore.connect(self.node.url, config=CONFIG) as store:
            assert_accounts(self.node, self.journal.check(store))
            self.journal.tidy(store)


@pytest.fixture(scope="module")
def survivor(tmp_path_factory):
    survivor = Survivor(tmp_path_factory.mktemp("survivor"))
    with survivor.node:
        with survivor.work():
            time.sleep(0.3)
        yield survivor
        assert "Traceback" not in survivor.node.log
        assert not survivor.node.warnings, survivor.node.warnings


def crash(survivor, name, number):
    survivor.crash_at(f"{name}=crash@{number}")
    assert_sound(survivor.node)
    survivor.node.restart()
    survivor.check()


@pytest.mark.parametrize(("name", "number"), OFTEN)
def test_a_crash_in_the_middle(survivor, name, number):
    crash(survivor, name, number)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), FIRST)
def test_a_crash_at_once(survivor, name, number):
    crash(survivor, name, number)
