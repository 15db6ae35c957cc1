"""The store as an engine's loop sees it, while all is well."""

from __future__ import annotations

import os
import select
import threading

import numpy as np
import pytest

from kvstore.errors import ConfigError, InvalidArgumentError, UnknownSchemeError
from tests.support.blocks import assert_same, block, blocks, chain

SIZE = 64 << 10
HANG_MS = 30_000
EMBEDDED = "embedded://?memory=32MiB"


@pytest.fixture(params=["node", "embedded"])
def endpoint(request):
    return EMBEDDED if request.param == "embedded" else request.getfixturevalue("node").url


@pytest.fixture
def store(endpoint, open_store):
    return open_store(endpoint, lookup_timeout_ms=HANG_MS, load_timeout_ms=HANG_MS, save_timeout_ms=HANG_MS)


def finish(store, ticket):
    """The completion of a submission, which must be the only one."""
    (done,) = store.wait([ticket], HANG_MS)
    assert done.ticket == ticket
    return done


def save(store, keys, first_depth=0):
    done = finish(store, store.save(keys, blocks(keys, SIZE), nbytes=len(keys) * SIZE, first_depth=first_depth))
    assert done.ok.all()


def test_a_prefix_is_saved_found_and_loaded(store):
    keys = chain("prefix", 6)
    done = finish(store, store.save(keys[:4], blocks(keys[:4], SIZE), nbytes=4 * SIZE))
    assert (done.kind, done.ok.tolist(), done.leading) == ("save", [True] * 4, 4)
    assert done.seconds > 0

    done = finish(store, store.lookup(keys))
    assert (done.kind, done.ok.tolist(), done.leading) == ("lookup", [True] * 4 + [False] * 2, 4)

    buffers = np.zeros((6, SIZE), np.uint8)
    done = finish(store, store.load(keys, buffers, nbytes=6 * SIZE))
    assert (done.kind, done.ok.tolist(), done.leading) == ("load", [True] * 4 + [False] * 2, 4)
    for key, buffer in zip(keys[:4], buffers, strict=False):
        assert_same(buffer, block(key, SIZE))


def test_exists_tells_each_block_and_lookup_only_the_leading_ones(store):
    keys = chain("gaps", 4)
    save(store, keys[[0, 2]])
    done = finish(store, store.exists(keys))
    assert (done.kind, done.ok.tolist(), done.leading) == ("exists", [True, False, True, False], 1)
    assert finish(store, store.lookup(keys)).ok.tolist() == [True, False, False, False]


def test_deleted_blocks_are_gone(store):
    keys = chain("deleted", 3)
    save(store, keys[:2])
    done = finish(store, store.delete(keys))
    assert (done.kind, done.ok.tolist()) == ("delete", [True, True, False])
    assert finish(store, store.lookup(keys)).leading == 0


def test_buffers_may_lie_in_pieces(store):
    key = chain("pieces", 1)
    whole = block(key[0], SIZE)
    halves = [[whole[: SIZE // 2], whole[SIZE // 2 :]]]
    assert finish(store, store.save(key, halves, nbytes=SIZE)).ok.all()
    parts = [np.zeros(SIZE // 4, np.uint8) for _ in range(4)]
    assert finish(store, store.load(key, [parts], nbytes=SIZE)).ok.all()
    assert_same(np.concatenate(parts), whole)


def test_a_block_of_another_length_is_not_loaded(store):
    keys = chain("length", 2)
    save(store, keys)
    buffers = [np.zeros(SIZE, np.uint8), np.zeros(SIZE + 1, np.uint8)]
    done = finish(store, store.load(keys, buffers, nbytes=2 * SIZE + 1))
    assert done.ok.tolist() == [True, False]


def test_saving_again_says_that_the_block_is_there_whoever_was_first(store):
    keys = chain("twice", 2)
    save(store, keys)
    save(store, keys)
    other = np.stack([block(keys[0], SIZE), block(keys[1], SIZE, version=1)])
    assert finish(store, store.save(keys, other, nbytes=2 * SIZE)).ok.tolist() == [True, True]
    buffers = np.zeros((2, SIZE), np.uint8)
    assert finish(store, store.load(keys, buffers, nbytes=2 * SIZE)).ok.all()
    assert_same(buffers[1], block(keys[1], SIZE))
    assert store.stats()["save_good_blocks"] == 6


def test_saved_blocks_expire_when_the_settings_say_so(endpoint, open_store):
    store = open_store(endpoint, ttl_ms=50, lookup_timeout_ms=HANG_MS, save_timeout_ms=HANG_MS)
    keys = chain("brief", 1)
    save(store, keys)
    deadline = threading.Event()
    for _ in range(200):
        if not finish(store, store.lookup(keys)).ok.any():
            return
        deadline.wait(0.05)
    pytest.fail("the block is still there after ten seconds")


def test_an_empty_batch_ends_at_once(store):
    none = chain("none", 0)
    tickets = {store.lookup(none), store.exists(none), store.load(none, [], nbytes=0)}
    tickets.add(store.save(none, [], nbytes=0))
    ended = store.poll()
    assert {done.ticket for done in ended} == tickets
    assert all(done.leading == 0 and done.ok.shape == (0,) for done in ended)


def test_polls_give_each_completion_once_and_wait_only_when_told(store):
    assert store.poll() == []
    assert store.poll(wait_ms=1) == []
    ticket = store.lookup(chain("nobody", 1))
    (done,) = store.poll(HANG_MS)
    assert done.ticket == ticket
    assert store.poll() == []


def test_wait_returns_what_else_ended_and_gives_up_in_time(store):
    keys = chain("several", 2)
    tickets = [store.lookup(keys), store.exists(keys), store.lookup(keys)]
    assert {done.ticket for done in store.wait(tickets, HANG_MS)} == set(tickets)
    assert store.wait([10**9], timeout_ms=20) == []
    assert store.wait([], timeout_ms=HANG_MS) == []


def test_the_descriptor_is_readable_when_there_is_something_to_poll(store):
    assert store.poll() == []
    readable = select.poll()
    readable.register(store.fileno(), select.POLLIN)
    assert readable.poll(0) == []
    store.lookup(chain("readable", 1))
    assert readable.poll(HANG_MS)
    assert len(store.poll()) == 1
    assert readable.poll(0) == []


def test_what_cannot_be_submitted_is_a_miss_and_a_log_line(store, caplog):
    keys = chain("wrong", 2)
    wrong = [
        store.lookup(np.zeros((2, 31), np.uint8)),
        store.load(keys, np.zeros((1, SIZE), np.uint8), nbytes=SIZE),
        store.load(keys, [object(), object()], nbytes=SIZE),
        store.save(keys, np.zeros((2, 64), np.uint8)[:, ::2], nbytes=64),
    ]
    ended = {done.ticket: done for done in store.poll()}
    assert ended.keys() == set(wrong)
    assert all(done.ok.tolist() == [False, False] for done in ended.values())
    assert store.stats()["errors"] == 4
    assert [message.partition(" cannot")[0] for message in caplog.messages] == ["a lookup"]


def test_statistics_follow_what_was_done(store):
    keys = chain("counted", 4)
    save(store, keys[:3])
    finish(store, store.lookup(keys))
    finish(store, store.load(keys, np.zeros((4, SIZE), np.uint8), nbytes=4 * SIZE))
    stats = store.stats()
    expected = {
        "saves": 1,
        "save_blocks": 3,
        "save_good_blocks": 3,
        "save_bytes": 3 * SIZE,
        "lookups": 1,
        "lookup_blocks": 4,
        "lookup_hit_blocks": 3,
        "loads": 1,
        "load_blocks": 4,
        "load_good_blocks": 3,
        "saves_dropped": 0,
        "errors": 0,
        "pauses": 0,
        "connected": 1,
        "pending": 0,
        "saving_bytes": 0,
        "gate_taken": 0,
        "gate_skipped": 0,
    }
    assert {name: stats[name] for name in expected} == expected
    assert min(stats["save_seconds"], stats["lookup_seconds"], stats["load_seconds"]) > 0


def test_only_complete_loads_teach_the_gate(store):
    keys = chain("taught", 2)
    save(store, keys[:1])
    finish(store, store.load(keys, np.zeros((2, SIZE), np.uint8), nbytes=2 * SIZE))
    assert store.gate.load_seconds(SIZE) is None
    finish(store, store.load(keys[:1], np.zeros((1, SIZE), np.uint8), nbytes=SIZE))
    assert store.gate.load_seconds(SIZE) > 0


def test_the_gate_is_off_where_the_settings_say_so(open_store):
    store = open_store(EMBEDDED, cost_gate=False)
    store.gate.note_load(1, 1000.0)
    store.gate.note_prefill(1000, 0.001)
    assert store.gate.is_worth_loading(tokens=1, nbytes=1 << 30)


def test_threads_share_a_store(store):
    keys = chain("threads", 40)
    save(store, keys)
    buffers = np.zeros((40, SIZE), np.uint8)
    loading = threading.Barrier(4)
    tickets, ended = [], []  # appending is atomic

    def work(number):
        loading.wait(HANG_MS / 1000)
        for at in range(number, 40, 4):
            part = slice(at, at + 1)
            tickets.append(store.load(keys[part], buffers[part], nbytes=SIZE, first_depth=at))
            ended.extend(store.poll(wait_ms=1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_MS / 1000)
    ended += store.wait(set(tickets) - {done.ticket for done in ended}, HANG_MS)
    assert sorted(done.ticket for done in ended) == sorted(tickets)
    assert all(done.ok.all() for done in ended)
    for key, buffer in zip(keys, buffers, strict=True):
        assert_same(buffer, block(key, SIZE))


def test_a_closed_store_ends_everything_as_not_done(store):
    keys = chain("closed", 2)
    save(store, keys)
    pending = store.load(keys, np.zeros((2, SIZE), np.uint8), nbytes=2 * SIZE)
    store.close()
    store.close()
    late = store.lookup(keys)
    assert store.save(keys, blocks(keys, SIZE), nbytes=2 * SIZE) is None
    ended = {done.ticket: done for done in store.poll(wait_ms=HANG_MS)}
    assert ended.keys() == {pending, late}
    assert not any(done.ok.any() for done in ended.values())
    assert store.poll(wait_ms=HANG_MS) == []
    assert store.wait([10**9], HANG_MS) == []
    assert not store.connected
    assert store.stats()["saves_dropped"] == 1


def test_a_loop_that_waits_is_let_go_when_another_thread_closes(store):
    ended = []
    waiting = threading.Thread(target=lambda: ended.append(store.wait([10**9], timeout_ms=500)))
    waiting.start()
    store.close()
    waiting.join(HANG_MS / 1000)
    assert ended == [[]]


def test_endpoints_of_no_use_are_refused_at_once(open_store):
    with pytest.raises(UnknownSchemeError, match="unknown scheme 'http'"):
        open_store("http://127.0.0.1:80")
    with pytest.raises(InvalidArgumentError, match="is not an address"):
        open_store("127.0.0.1:7400")
    with pytest.raises(ConfigError):
        open_store(EMBEDDED, lookup_timeout_ms=0)


def test_a_forked_child_meets_misses_and_no_exception(store):
    keys = chain("forked", 1)
    save(store, keys)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ticket = store.lookup(keys)
            saved = store.save(keys, blocks(keys, SIZE), nbytes=SIZE)
            (done,) = store.poll()
            state = (done.ticket == ticket, done.ok.any(), saved, store.connected, store.stats()["connected"])
            status = 0 if state == (True, False, None, False, 0) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert finish(store, store.lookup(keys)).ok.all()
