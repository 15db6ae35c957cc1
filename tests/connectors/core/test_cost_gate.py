"""What the gate learns, and what it decides on the strength of it."""

from __future__ import annotations

import pytest

from kvstore.connectors.core import CostGate

MIB = 1 << 20


def learn_loads(gate, *, fixed_s, bytes_per_s, sizes=(MIB, 4 * MIB, 16 * MIB), times=1):
    for _ in range(times):
        for nbytes in sizes:
            gate.note_load(nbytes, fixed_s + nbytes / bytes_per_s)


def taught(*, loads_bytes_per_s=100 * MIB, computes_tokens_per_s=1000, fixed_s=0.01):
    gate = CostGate()
    learn_loads(gate, fixed_s=fixed_s, bytes_per_s=loads_bytes_per_s)
    gate.note_prefill(computes_tokens_per_s, 1.0)
    return gate


def test_what_is_unknown_is_worth_a_load():
    gate = CostGate()
    assert gate.load_seconds(MIB) is None
    assert gate.prefill_seconds(1) is None
    assert gate.is_worth_loading(tokens=1, nbytes=1 << 40)
    gate.note_load(MIB, 1000.0)
    assert gate.is_worth_loading(tokens=1, nbytes=1 << 40)
    only_prefill = CostGate()
    only_prefill.note_prefill(1 << 30, 0.001)
    assert only_prefill.is_worth_loading(tokens=1, nbytes=1 << 40)


def test_a_load_has_a_time_of_its_own_and_one_by_the_byte():
    gate = taught(fixed_s=0.01, loads_bytes_per_s=100 * MIB)
    assert gate.load_seconds(0) == pytest.approx(0.01)
    assert gate.load_seconds(100 * MIB) == pytest.approx(1.01)
    assert gate.prefill_seconds(500) == pytest.approx(0.5)


def test_loads_of_one_size_are_scaled():
    gate = CostGate()
    for _ in range(3):
        gate.note_load(2 * MIB, 0.5)
    assert gate.load_seconds(2 * MIB) == pytest.approx(0.5)
    assert gate.load_seconds(4 * MIB) == pytest.approx(1.0)


def test_larger_loads_that_were_quicker_give_no_negative_time():
    gate = CostGate()
    gate.note_load(MIB, 1.0)
    gate.note_load(3 * MIB, 0.5)
    assert gate.load_seconds(100 * MIB) > 0


def test_no_load_is_thought_to_take_less_than_nothing():
    gate = CostGate()
    gate.note_load(MIB, 0.01)
    gate.note_load(2 * MIB, 1.0)
    assert gate.load_seconds(MIB // 2) > 0
    assert gate.load_seconds(4 * MIB) > 1.0


def test_new_loads_count_for_more_than_old_ones():
    gate = taught(loads_bytes_per_s=MIB)
    learn_loads(gate, fixed_s=0.0, bytes_per_s=1000 * MIB, times=60)
    assert gate.load_seconds(1000 * MIB) == pytest.approx(1.0, rel=0.05)
    gate.note_prefill(1000, 1.0)
    for _ in range(200):
        gate.note_prefill(1000, 0.1)
    assert gate.prefill_seconds(1000) == pytest.approx(0.1, rel=0.05)


def test_decides_by_which_is_sooner_and_counts():
    gate = taught(loads_bytes_per_s=100 * MIB, computes_tokens_per_s=1000, fixed_s=0.01)
    # 100 tokens take 0.1 s to compute, and 9 MiB with what a load takes anyhow 0.1 s to load.
    assert gate.is_worth_loading(tokens=100, nbytes=8 * MIB)
    assert not gate.is_worth_loading(tokens=100, nbytes=10 * MIB)
    assert not gate.is_worth_loading(tokens=5, nbytes=0)
    assert (gate.taken, gate.skipped) == (1, 2)


def test_one_refusal_in_thirty_two_is_loaded_all_the_same():
    gate = taught(loads_bytes_per_s=MIB)
    decisions = [gate.is_worth_loading(tokens=1, nbytes=MIB) for _ in range(64)]
    assert [number for number, worth in enumerate(decisions, start=1) if worth] == [32, 64]
    assert (gate.taken, gate.skipped) == (2, 62)


def test_a_store_that_became_faster_is_used_again_through_the_trials():
    gate = taught(loads_bytes_per_s=MIB, fixed_s=0.0)
    for _ in range(32 * 40):
        if gate.is_worth_loading(tokens=1000, nbytes=10 * MIB):
            gate.note_load(10 * MIB, 0.01)
    assert gate.taken > 3 * 40, "trials alone"
    assert gate.is_worth_loading(tokens=1000, nbytes=10 * MIB)


def test_old_loads_of_other_sizes_do_not_outweigh_what_this_size_takes_now():
    gate = taught(loads_bytes_per_s=MIB, fixed_s=0.0)
    for _ in range(100):
        gate.note_load(10 * MIB, 0.01)
    assert gate.load_seconds(10 * MIB) < 0.5


def test_off_takes_everything_and_counts():
    gate = CostGate(enabled=False)
    learn_loads(gate, fixed_s=10.0, bytes_per_s=MIB)
    gate.note_prefill(1 << 30, 0.001)
    assert all(gate.is_worth_loading(tokens=1, nbytes=1 << 40) for _ in range(40))
    assert (gate.taken, gate.skipped) == (40, 0)
