"""Any sequence of operations on a store with a disk, restarts among them, checked against a plain dict.

Memory holds hardly anything, the disk everything: nothing may be forgotten.
"""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

import kvstore
from kvstore import Status
from tests.contract.test_state_machine import BATCHES, GRANULE, UNIVERSE, StoreMachine
from tests.node_process import wait_until

OWNERS = st.sampled_from(["one", "another"])


class DiskStore(StoreMachine):
    memory = "4MiB"
    sizes = (1, 5000, 100_000, 300_000)
    # A second put of what a disk has by then, and a read of what is deleted meanwhile, count as aborted.
    stay_zero = ("checksum_errors", "protocol_errors", "nvme_evicted_blocks", "nvme_troubles", "nvme_wrong_checksums")

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="kvstore-test-")
        self.pins: set[tuple[int, str]] = set()
        super().__init__()

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()

    def _open(self) -> kvstore.Client:
        url = f"embedded://?memory={self.memory}&disk={self.folder.name}/disk&disk_size=32MiB"
        return kvstore.connect(url, timeout_ms=30_000)

    # ---- what a disk adds

    @precondition(lambda self: not self.borrowed)
    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self._open()
        present = self.store.exists(UNIVERSE).tolist()
        assert [slot for slot, is_there in enumerate(present) if is_there] == sorted(self.model)

    @rule()
    def flush(self) -> None:
        """From then on all that is there is on disk, and nothing else."""
        assert self.store.flush()
        space = GRANULE + sum(content.space for content in self.model.values())
        wait_until(
            lambda: (self._counters()["nvme_blocks"], self._counters()["nvme_used_bytes"]) == (len(self.model), space),
            f"the disk holds {len(self.model)} blocks in {space} bytes",
        )

    @rule(data=st.data(), slots=st.lists(st.integers(0, len(UNIVERSE) - 1), min_size=1, max_size=3, unique=True))
    def put_durably(self, data: st.DataObject, slots: list[int]) -> None:
        known = [slot for slot in slots if slot in self.model]
        buffers = [self.model[slot].bytes_of(slot) for slot in known]
        assert set(self.store.put(UNIVERSE[known], buffers, durable=True).cause.tolist()) <= {Status.EXISTS}

    @rule(slots=BATCHES, owner=OWNERS)
    def pin(self, slots: list[int], owner: str) -> None:
        causes = self.store.pin(UNIVERSE[slots], owner=owner, ttl_s=600).cause.tolist()
        assert causes == [Status.OK if slot in self.model else Status.MISS for slot in slots]
        self.pins |= {(slot, owner) for slot in slots if slot in self.model}

    @rule(slots=st.lists(st.integers(0, len(UNIVERSE) - 1), min_size=1, max_size=6, unique=True), owner=OWNERS)
    def unpin(self, slots: list[int], owner: str) -> None:
        """Where the block was deleted since, the pin may have ended with it, or not yet."""
        causes = self.store.pin(UNIVERSE[slots], owner=owner, ttl_s=0).cause.tolist()
        for slot, cause in zip(slots, causes, strict=True):
            assert cause in {Status.OK, Status.MISS}
            assert cause == Status.MISS or (slot, owner) in self.pins, f"nobody has pinned slot {slot}"
            self.pins.discard((slot, owner))

    # ---- what may be missing

    def _forgotten(self, slot: int) -> None:
        assert slot not in self.model, f"slot {slot} is lost"

    def _not_given(self, slot: int, cause: Status) -> None:
        # What this client has borrowed may leave no room to read into.
        if cause != Status.BUSY or not self.borrowed:
            super()._not_given(slot, cause)

    def _not_lent(self, slot: int) -> None:
        """A miss, or over the share of memory that one client may hold."""

    def _refused(self, status: Status, content: object) -> None:
        assert status == Status.BUSY
        assert self.borrowed, f"{content} was refused although nothing is held"

    @invariant()
    def the_disk_is_well(self) -> None:
        counters = self._counters()
        assert counters["nvme_used_bytes"] <= counters["nvme_capacity_bytes"]


def test_any_sequence_of_operations_with_a_disk():
    run_state_machine_as_test(DiskStore, settings=settings(max_examples=8, stateful_step_count=40))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_very_many_sequences_of_operations_with_a_disk():
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        DiskStore, settings=settings(max_examples=400, stateful_step_count=80, suppress_health_check=quiet)
    )
