"""Any sequence of operations, checked against a plain dict.

A cache may forget, and it may do nothing else: what is got under a key is what its first writer put there. In a store
with room for everything even forgetting is forbidden; in a tiny one only what was evicted may be missing.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import kvstore
from kvstore import Status
from kvstore.errors import BufferSizeError
from tests.node_process import wait_until
from tests.support.blocks import assert_same, block, chain

KIB, MIB = 1 << 10, 1 << 20
GRANULE = 4 * KIB
UNIVERSE = chain("state machine", 10)
SLOTS = st.integers(0, len(UNIVERSE) - 1)
BATCHES = st.lists(SLOTS, min_size=1, max_size=6)
VERSIONS = st.integers(0, 1)
STEPS = 50


@dataclasses.dataclass(frozen=True)
class Content:
    """What a block holds: its bytes follow from the key and these two."""

    size: int
    version: int

    @property
    def space(self) -> int:
        return -(-self.size // GRANULE) * GRANULE

    def bytes_of(self, slot: int) -> np.ndarray:
        return block(UNIVERSE[slot], self.size, self.version)


@dataclasses.dataclass
class Borrowed:
    """Views that are held, and what they showed from the start."""

    opened: contextlib.ExitStack
    slots: list[int]
    views: list[np.ndarray]
    contents: list[Content]


class StoreMachine(RuleBasedStateMachine):
    """Works on one embedded store; `model` is what it must hold."""

    memory: str
    sizes: tuple[int, ...]
    stay_zero: tuple[str, ...] = ("put_aborted", "checksum_errors", "protocol_errors")

    def __init__(self) -> None:
        super().__init__()
        self.store = self._open()
        self.model: dict[int, Content] = {}
        self.borrowed: list[Borrowed] = []

    def teardown(self) -> None:
        while self.borrowed:
            self._release(0)
        wait_until(lambda: self._counters()["leases"] == 0, "no lease is left")
        self.store.close()

    # ---- writing

    @rule(data=st.data(), slots=BATCHES, version=VERSIONS)
    def put(self, data: st.DataObject, slots: list[int], version: int) -> None:
        contents = [Content(data.draw(st.sampled_from(self.sizes)), version) for _ in slots]
        buffers = [content.bytes_of(slot) for slot, content in zip(slots, contents, strict=True)]
        result = self.store.put(UNIVERSE[slots], buffers)
        # As the node does: keys that are there are answered at once, the others in the order of the batch.
        known = dict(self.model)
        for slot, content, cause in zip(slots, contents, result.cause.tolist(), strict=True):
            self._check_put(slot, content, Status(cause), known)

    @rule(slots=BATCHES)
    def delete(self, slots: list[int]) -> None:
        self._check_present(slots, self.store.delete(UNIVERSE[slots]).tolist(), removes=True)

    # ---- reading

    @rule(data=st.data(), slots=BATCHES)
    def get(self, data: st.DataObject, slots: list[int]) -> None:
        sizes = [
            self.model[slot].size if slot in self.model else data.draw(st.sampled_from(self.sizes)) for slot in slots
        ]
        buffers = [np.full(size, 0xEE, np.uint8) for size in sizes]
        causes = self.store.get(UNIVERSE[slots], buffers).cause.tolist()
        for slot, buffer, cause in zip(slots, buffers, causes, strict=True):
            if cause == Status.OK:
                assert_same(buffer, self.model[slot].bytes_of(slot), f"slot {slot}")
            else:
                self._not_given(slot, Status(cause))

    @rule(slot=SLOTS, off=st.sampled_from([-1, 1, 4096]))
    def get_with_another_length(self, slot: int, off: int) -> None:
        if slot not in self.model or self.model[slot].size + off <= 0:
            return
        buffer = np.full(self.model[slot].size + off, 0xEE, np.uint8)
        try:
            status = self.store.get(UNIVERSE[[slot]], [buffer]).status[0]
        except BufferSizeError:
            assert (buffer == 0xEE).all()
        else:
            assert status == Status.MISS
            self._forgotten(slot)

    @rule(slots=BATCHES)
    def match(self, slots: list[int]) -> None:
        found = self.store.match(UNIVERSE[slots])
        assert all(slot in self.model for slot in slots[:found])
        if found < len(slots):
            self._forgotten(slots[found])

    @rule(slots=BATCHES)
    def exists(self, slots: list[int]) -> None:
        self._check_present(slots, self.store.exists(UNIVERSE[slots]).tolist())

    @rule(slots=BATCHES, ttl_s=st.sampled_from([None, 600.0]))
    def touch(self, slots: list[int], ttl_s: float | None) -> None:
        self._check_present(slots, self.store.touch(UNIVERSE[slots], ttl_s=ttl_s).tolist())

    # ---- borrowing

    @precondition(lambda self: len(self.borrowed) < 3)
    @rule(slots=BATCHES)
    def borrow(self, slots: list[int]) -> None:
        opened = contextlib.ExitStack()
        views = opened.enter_context(self.store.borrow(UNIVERSE[slots]))
        held = Borrowed(opened, [], [], [])
        self.borrowed.append(held)
        for slot, view in zip(slots, views, strict=True):
            if view is None:
                self._not_lent(slot)
                continue
            held.slots.append(slot)
            held.views.append(view)
            held.contents.append(self.model[slot])

    @precondition(lambda self: self.borrowed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(data.draw(st.integers(0, len(self.borrowed) - 1)))

    # ---- always

    @invariant()
    def space_is_within_the_budget(self) -> None:
        counters = self._counters()
        assert counters["used_bytes"] <= counters["capacity_bytes"]
        assert counters["reserved_bytes"] == 0
        assert not {name: counters[name] for name in self.stay_zero if counters[name]}

    # ---- what subclasses decide, and helpers

    def _open(self) -> kvstore.Client:
        return kvstore.connect(f"embedded://?memory={self.memory}", timeout_ms=30_000)

    def _forgotten(self, slot: int) -> None:
        """The store has no block there; may it have forgotten it?"""
        raise NotImplementedError

    def _not_given(self, slot: int, cause: Status) -> None:
        """A get did not bring the block."""
        assert cause == Status.MISS
        self._forgotten(slot)

    def _not_lent(self, slot: int) -> None:
        """A borrow answered None."""
        self._forgotten(slot)

    def _refused(self, status: Status, content: Content) -> None:
        """A put was answered with neither OK, EXISTS nor CONFLICT."""
        raise AssertionError(f"{content} was refused: {status!r}")

    def _check_put(self, slot: int, content: Content, cause: Status, known: dict[int, Content]) -> None:
        match cause:
            case Status.OK:
                if slot in known:  # it was there before the batch, or an earlier one of the batch brought it
                    self._forgotten(slot)
                self.model[slot] = known[slot] = content
            case Status.EXISTS:
                assert self.model[slot] == content
            case Status.CONFLICT:
                assert self.model[slot] != content
            case _:
                self._refused(cause, content)

    def _check_present(self, slots: list[int], present: list[bool], *, removes: bool = False) -> None:
        for slot, is_there in zip(slots, present, strict=True):
            if is_there:
                assert slot in self.model
            else:
                self._forgotten(slot)
            if removes:
                self.model.pop(slot, None)

    def _release(self, index: int) -> None:
        held = self.borrowed.pop(index)
        for slot, view, content in zip(held.slots, held.views, held.contents, strict=True):
            assert_same(view, content.bytes_of(slot), f"borrowed slot {slot}")
        held.opened.close()

    def _counters(self) -> dict[str, int]:
        node = self.store.stats()["node"]
        assert node is not None
        return node


class RoomyStore(StoreMachine):
    """Everything fits: nothing may be forgotten, and every byte is accounted for."""

    memory = "64MiB"
    sizes = (1, 100, 4096, 5000, 70_000, 200_001)

    def _forgotten(self, slot: int) -> None:
        assert slot not in self.model, f"slot {slot} is lost"

    @invariant()
    def counters_agree(self) -> None:
        held = {
            (slot, content) for lent in self.borrowed for slot, content in zip(lent.slots, lent.contents, strict=True)
        }
        expected = {
            "blocks": len(self.model),
            "evicted_blocks": 0,
            "leases": sum(len(lent.slots) for lent in self.borrowed),
        }
        wait_until(
            lambda: {name: self._counters()[name] for name in expected} == expected,
            f"the node counts {expected}",
        )
        # A block that was deleted while lent keeps its space; the same bytes put again have space of their own.
        visible = sum(content.space for content in self.model.values())
        lent_space = sum(content.space for _, content in held)
        assert visible <= self._counters()["used_bytes"] <= visible + 2 * lent_space


class TinyStore(StoreMachine):
    """Hardly anything fits: what is missing was evicted, what is there is right."""

    memory = "2MiB"
    sizes = (1, 5000, 300_000, 700_001)
    too_large = 3 * MIB

    def _forgotten(self, slot: int) -> None:
        self.model.pop(slot, None)

    def _not_given(self, slot: int, cause: Status) -> None:
        # A client that holds half of the store, by what it reads and has borrowed, gets no more: others need the rest.
        if cause != Status.BUSY:
            super()._not_given(slot, cause)

    def _not_lent(self, slot: int) -> None:
        """A miss, or refused for the same reason."""

    def _refused(self, status: Status, content: Content) -> None:
        # The blocks of one batch are no victims for each other, nor are borrowed ones.
        assert status == Status.BUSY
        self._may_be_evicted()

    def _may_be_evicted(self) -> None:
        present = self.store.exists(UNIVERSE).tolist()
        self.model = {slot: content for slot, content in self.model.items() if present[slot]}

    @rule(slot=SLOTS, version=VERSIONS, size=st.sampled_from(sizes))
    @precondition(lambda self: not self.borrowed)
    def put_one_while_nothing_is_borrowed(self, slot: int, version: int, size: int) -> None:
        wait_until(lambda: self._counters()["leases"] == 0, "leases end with their borrow")
        content = Content(size, version)
        cause = Status(self.store.put(UNIVERSE[[slot]], [content.bytes_of(slot)]).cause[0])
        assert cause in {Status.OK, Status.EXISTS, Status.CONFLICT}
        self._check_put(slot, content, cause, self.model)

    @rule(slot=SLOTS)
    def put_what_can_never_fit(self, slot: int) -> None:
        present = self.store.exists(UNIVERSE[[slot]])[0]
        status = self.store.put(UNIVERSE[[slot]], [np.zeros(self.too_large, np.uint8)]).status[0]
        assert status == (Status.CONFLICT if present else Status.TOO_LARGE)

    @invariant()
    def what_is_there_is_known(self) -> None:
        self._may_be_evicted()
        counters = self._counters()
        assert counters["blocks"] == len(self.model)


@pytest.mark.parametrize("machine", [RoomyStore, TinyStore])
def test_any_sequence_of_operations(machine):
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=STEPS))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("machine", [RoomyStore, TinyStore])
def test_very_many_sequences_of_operations(machine):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=1000, stateful_step_count=100, suppress_health_check=quiet)
    )
