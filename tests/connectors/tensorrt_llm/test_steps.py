"""Requests through the connector, step by step: what is promised, loaded and saved, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

import kvstore

pytest.importorskip("torch")

from tests.connectors.tensorrt_llm.engine import Request

BLOCK = 16
TOKENS = list(range(100, 100 + 6 * BLOCK + 5))


@pytest.fixture
def engine(open_engine):
    return open_engine()


@pytest.fixture
def store(node):
    with kvstore.connect(node.url, timeout_ms=10_000) as client:
        yield client


def run(engine, fill, settle, request):
    """The whole prompt in one step, saved; returns what was promised of it."""
    promised = engine.admit(request)
    engine.step([engine.first(request)], forward=lambda: fill(engine, request, promised // BLOCK))
    settle(engine)
    return promised


def keys_of(engine, tokens, salt=b""):
    """(blocks, ranks, 32)"""
    return engine.scheduler._names.keys(tokens, salt)


def pages_of(engine, request, rank=0):
    return engine.pages[rank][engine.blocks_of(request)].numpy()


def saved_blocks(engine):
    return [int(worker.stats()["save_good_blocks"]) for worker in engine.workers]


@pytest.mark.parametrize("second_manager", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_prompt_is_saved_and_loaded_by_another_engine(open_engine, fill, settle, ranks, second_manager):
    writer = open_engine(ranks=ranks, second_manager=second_manager)
    first = Request(1, TOKENS)
    assert run(writer, fill, settle, first) == 0
    expected = [pages_of(writer, first, rank)[:6].copy() for rank in range(ranks)]
    writer.finish(first)

    reader = open_engine(ranks=ranks, second_manager=second_manager)
    request = Request(7, TOKENS)
    assert reader.admit(request) == 6 * BLOCK
    plan = reader.step([reader.first(request, scheduled=5)])
    assert len(plan.loads) == 6
    for rank in range(ranks):
        assert (pages_of(reader, request, rank)[:6] == expected[rank]).all()
    assert saved_blocks(reader) == [0] * ranks


def test_one_token_is_always_left_to_compute(engine, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS[: 6 * BLOCK]))
    for number, (length, promised) in enumerate(((1, 0), (BLOCK, 0), (BLOCK + 1, BLOCK), (6 * BLOCK, 5 * BLOCK)), 2):
        assert engine.admit(Request(number, TOKENS[:length])) == promised, length


def test_only_what_the_engine_does_not_have_is_promised(engine, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS))
    request = Request(2, TOKENS)
    assert engine.admit(request, computed_tokens=4 * BLOCK) == 2 * BLOCK
    plan = engine.step([engine.first(request, computed=4 * BLOCK, scheduled=5)])
    assert [load.block for load in plan.loads] == engine.blocks_of(request)[4:6]
    assert (pages_of(engine, request)[4:6] == [[5], [6]]).all()
    partly = Request(3, TOKENS)
    assert engine.admit(partly, computed_tokens=4 * BLOCK + 1) == 0, "a block that is partly there may be shared"


def test_a_block_counts_only_when_all_ranks_have_it(open_engine, store, fill, settle):
    engine = open_engine(ranks=2)
    run(engine, fill, settle, Request(1, TOKENS))
    assert saved_blocks(engine) == [6, 6]
    assert store.delete(keys_of(engine, TOKENS)[3, 1:]).all()
    request = Request(2, TOKENS)
    assert engine.admit(request) == 3 * BLOCK
    assert engine.scheduler.stats()["load_blocks"] == 3 * 2
    plan = engine.step([engine.first(request)])
    assert [(save.first_depth, len(save.blocks)) for save in plan.saves] == [(3, 3)], "what a rank lacks is saved anew"
    settle(engine)
    assert store.delete(keys_of(engine, TOKENS)[0, :1]).all()
    assert engine.admit(Request(3, TOKENS)) == 0


def test_what_is_lost_between_lookup_and_load_is_not_promised(open_engine, store, fill, settle, monkeypatch):
    engine = open_engine(ranks=2)
    run(engine, fill, settle, Request(1, TOKENS))
    core = engine.scheduler._store
    load = core.load

    def lose_and_load(keys, buffers, **options):
        store.delete(keys_of(engine, TOKENS)[2, 1:])
        return load(keys, buffers, **options)

    monkeypatch.setattr(core, "load", lose_and_load)
    request = Request(2, TOKENS)
    assert engine.admit(request) == 2 * BLOCK
    plan = engine.step([engine.first(request, scheduled=5)])
    assert len(plan.loads) == 2
    assert engine.scheduler._staging.free == engine.scheduler._staging.place.slots


def test_nothing_is_promised_of_a_node_that_freezes_before_the_load(engine, node, fill, settle, monkeypatch):
    run(engine, fill, settle, Request(1, TOKENS))
    core = engine.scheduler._store
    load = core.load

    def freeze_and_load(keys, buffers, **options):
        node.freeze()
        return load(keys, buffers, **options)

    monkeypatch.setattr(core, "load", freeze_and_load)
    request = Request(2, TOKENS)
    assert engine.admit(request) == 0
    assert engine.step([engine.first(request)]).loads == []
    assert engine.scheduler._staging.free == engine.scheduler._staging.place.slots


def test_chunks_are_saved_as_they_are_completed(engine, fill, settle):
    request = Request(1, TOKENS)
    engine.admit(request)
    fill(engine, request)
    plan = engine.step([engine.first(request, scheduled=40)])
    assert [save.blocks for save in plan.saves] == [engine.blocks_of(request)[:2]]
    plan = engine.step(cached=[engine.later(request, computed=40, scheduled=40)])
    assert [(save.blocks, save.first_depth) for save in plan.saves] == [(engine.blocks_of(request)[2:5], 2)]
    plan = engine.step(cached=[engine.later(request, computed=80, scheduled=21)])
    assert [save.blocks for save in plan.saves] == [engine.blocks_of(request)[5:6]]
    settle(engine)
    assert saved_blocks(engine) == [6]
    assert engine.admit(Request(2, TOKENS)) == 6 * BLOCK


def test_blocks_of_the_answer_are_saved_when_they_are_full(engine, fill, settle):
    request = Request(1, TOKENS)
    run(engine, fill, settle, request)
    saves = []
    for token in range(15):
        fill(engine, request, 6)
        computed = len(request.tokens)
        saves.append(engine.step(cached=[engine.later(request, computed, 1, [token])]).saves)
    assert [bool(save) for save in saves] == [False] * 10 + [True] + [False] * 4
    settle(engine)
    assert saved_blocks(engine) == [7]
    assert engine.admit(Request(2, request.tokens)) == 7 * BLOCK


def test_a_request_that_was_preempted_begins_anew(engine, fill, settle):
    request = Request(1, TOKENS)
    engine.admit(request)
    fill(engine, request)
    engine.step([engine.first(request, scheduled=40)])
    settle(engine)
    engine._free += engine._held.pop(1)
    for pages in engine.pages:
        pages[:] = 0
    assert engine.admit(request) == 2 * BLOCK
    engine.step([engine.first(request, scheduled=3 * BLOCK + 5)], forward=lambda: fill(engine, request, 2))
    assert (pages_of(engine, request)[:6, 0] == [1, 2, 3, 4, 5, 6]).all()


def test_blocks_without_a_page_are_neither_loaded_nor_saved(engine, fill, settle):
    request = Request(1, TOKENS)
    engine.admit(request)
    data = engine.first(request)
    data.new_block_ids[2] = -1
    fill(engine, request)
    plan = engine.step([data])
    assert [(save.first_depth, len(save.blocks)) for save in plan.saves] == [(0, 2), (3, 3)]
    settle(engine)
    assert saved_blocks(engine) == [5]
    assert engine.admit(Request(2, TOKENS)) == 2 * BLOCK

    again = Request(3, TOKENS)
    assert engine.admit(again) == 2 * BLOCK
    data = engine.first(again, scheduled=5)
    data.new_block_ids[0] = -1
    assert [load.block for load in engine.step([data]).loads] == data.new_block_ids[1:2]


def test_pages_may_go_to_others_as_soon_as_the_step_is_over(engine, node, fill, settle):
    request = Request(1, TOKENS)
    engine.admit(request)
    node.freeze()
    engine.step([engine.first(request)], forward=lambda: fill(engine, request))
    engine.finish(request)  # which overwrites its pages
    node.thaw()
    settle(engine)
    again = Request(2, TOKENS)
    assert engine.admit(again) == 6 * BLOCK
    engine.step([engine.first(again, scheduled=5)])
    assert (pages_of(engine, again)[:6, 0] == [1, 2, 3, 4, 5, 6]).all()


def test_cancelled_and_ended_requests_give_their_room_back(engine, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS))
    staging = engine.scheduler._staging
    cancelled, ended, asked_twice = Request(2, TOKENS), Request(3, TOKENS), Request(4, TOKENS)
    for request in (cancelled, ended, asked_twice):
        assert engine.admit(request) == 6 * BLOCK
    assert staging.free == staging.place.slots - 18
    engine.scheduler.cancel_load(cancelled)
    engine.finish(ended)
    assert engine.scheduler.get_num_new_matched_tokens(asked_twice, 0) == (6 * BLOCK, False)
    assert staging.free == staging.place.slots - 6
    engine.step([engine.first(asked_twice, scheduled=5)])
    assert staging.free == staging.place.slots


def test_no_more_is_promised_than_there_is_room_for(open_engine, fill, settle):
    engine = open_engine(settings={"save_bytes": 1 << 20}, blocks=512)
    room = (1 << 20) // engine.pages[0].shape[1]
    assert 150 < room < 200
    prompts = [list(range(start, start + 100 * BLOCK + 1)) for start in (0, 10_000)]
    for number, tokens in enumerate(prompts):
        request = Request(number, tokens)
        assert run(engine, fill, settle, request) == 0
        engine.finish(request)
    first, second = Request(2, prompts[0]), Request(3, prompts[1])
    assert engine.admit(first) == 100 * BLOCK
    assert engine.admit(second) == (room - 100) * BLOCK
    engine.step([engine.first(first, scheduled=1), engine.first(second, scheduled=1)])
    assert (pages_of(engine, second)[: room - 100, 0] == range(1, room - 99)).all()
    assert engine.scheduler._staging.free == room


def test_saves_beyond_the_limit_are_dropped_and_counted(open_engine, node, fill, settle):
    engine = open_engine(settings={"save_bytes": 1 << 20, "save_timeout_ms": 20_000}, blocks=256)
    room = (1 << 20) // engine.pages[0].shape[1]
    tokens = list(range((room + 20) * BLOCK + 1))
    request = Request(1, tokens)
    engine.admit(request)
    node.freeze()
    engine.step([engine.first(request)], forward=lambda: fill(engine, request))
    stats = engine.workers[0].stats()
    assert (stats["save_blocks"], stats["saves_dropped"], stats["save_dropped_blocks"]) == (room, 1, 20)
    node.thaw()
    settle(engine)
    assert saved_blocks(engine) == [room]
    assert len(engine.workers[0]._free) == room


def test_hits_that_load_slower_than_they_compute_are_left_alone(engine, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS))
    assert engine.admit(Request(2, TOKENS)) == 6 * BLOCK
    engine.scheduler._store.gate.note_prefill(10**12, 1e-6)
    request = Request(3, TOKENS)
    assert engine.admit(request) == 0
    assert engine.scheduler.stats()["gate_skipped"] == 1
    assert engine.step([engine.first(request)]).saves == [], "it is known to be there"


def test_a_lookup_that_goes_wrong_is_a_miss(engine, caplog):
    class Strange:
        request_id = 1
        cache_salt = None

    assert engine.scheduler.get_num_new_matched_tokens(Strange(), 0) == (0, False)
    assert "a lookup failed: AttributeError" in caplog.text


@pytest.mark.parametrize("said", [8, 32])
def test_an_engine_with_blocks_of_another_size_is_left_alone(engine, fill, settle, caplog, said):
    request = Request(1, TOKENS)
    engine.admit(request)
    data = engine.first(request)
    data.new_block_ids = list(range(-(-len(TOKENS) // said)))
    if said == 8:
        data.new_block_ids *= 2
    assert engine.step([data]).saves == []
    assert "its blocks do not have the 16 tokens that it said" in caplog.text
    later = Request(2, TOKENS)
    assert engine.admit(later) == 0
    assert engine.step([engine.first(later)]).saves == []


def test_and_stopped_where_it_was_promised_something(engine, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS))
    request = Request(2, TOKENS)
    assert engine.admit(request) == 6 * BLOCK
    data = engine.first(request)
    data.new_block_ids = data.new_block_ids[:4]
    with pytest.raises(kvstore.errors.UnsupportedError, match="gave 4 blocks for 101 tokens"):
        engine.step([data])


def test_loaded_blocks_are_really_used(engine, store, fill, settle):
    run(engine, fill, settle, Request(1, TOKENS))
    keys = keys_of(engine, TOKENS)[:, 0]
    store.delete(keys)
    zeros = np.zeros((6, engine.pages[0].shape[1]), np.uint8)
    assert store.put(keys, zeros).all_ok
    request = Request(2, TOKENS)
    assert engine.admit(request) == 6 * BLOCK
    engine.step([engine.first(request, scheduled=5)])
    assert not pages_of(engine, request)[:6].any()
