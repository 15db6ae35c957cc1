"""The client that is polled: every verb, its descriptor, threads, the end of the client, and trouble."""

import gc
import os
import select
import threading

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.client import GetResult, PutResult
from kvstore.config import ClientConfig
from kvstore.errors import BlockTooLargeError, ClosedError, ConnectError, InvalidArgumentError
from tests.node_process import BLOCK_BYTES, LANES, some_blocks, some_keys, wait_until
from tests.support.node import Node

# Of waits that end by themselves; only a lost completion takes so long.
HANG_MS = 20_000
EMBEDDED = "embedded://?memory=16MiB"


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), "--threads", "1") as running:
        yield running


@pytest.fixture
def node(one_node):
    one_node.renew()
    return one_node


@pytest.fixture(params=(*LANES, "embedded"))
def store(request):
    if request.param == "embedded":
        client = kvstore.connect_polled(EMBEDDED, timeout_ms=HANG_MS)
    else:
        client = kvstore.connect_polled(request.getfixturevalue("node").url, lane=request.param, timeout_ms=HANG_MS)
    with client:
        yield client


def result_of(store, ticket):
    """The result of the only submission."""
    (completion,) = store.poll(HANG_MS)
    assert completion.ticket == ticket
    assert store.pending == 0
    return completion.result


def test_every_verb(store):
    keys, blocks = some_keys(4), some_blocks(4)
    written = result_of(store, store.put(keys[:3], blocks[:3]))
    assert isinstance(written, PutResult)
    assert written.cause.tolist() == [Status.OK] * 3
    assert result_of(store, store.put(keys[:1], blocks[:1])).cause.tolist() == [Status.EXISTS]

    assert result_of(store, store.match(keys)) == 3
    assert result_of(store, store.exists(keys)).tolist() == [True, True, True, False]

    buffers = np.zeros_like(blocks)
    read = result_of(store, store.get(keys, buffers))
    assert isinstance(read, GetResult)
    assert read.status.tolist() == [Status.OK] * 3 + [Status.MISS]
    assert (buffers[:3] == blocks[:3]).all()

    assert result_of(store, store.touch(keys, ttl_s=60)).tolist() == [True, True, True, False]
    assert result_of(store, store.delete(keys[1:])).tolist() == [True, True, False]
    assert result_of(store, store.match(keys)) == 1
    assert store.stats()["node"]["blocks"] == 1


def test_options_reach_the_node(store):
    keys, blocks = some_keys(2), some_blocks(2)
    assert result_of(store, store.put(keys[:1], blocks[:1], ttl_s=0.05)).all_ok
    durable = result_of(store, store.put(keys[1:], blocks[1:], durable=True, first_depth=1))
    assert durable.status.tolist() == [Status.NOT_DURABLE]
    wait_until(lambda: not result_of(store, store.exists(keys[:1])).any(), "the block expires")
    assert result_of(store, store.touch(keys[1:], ttl_s=0.05)).tolist() == [True]
    wait_until(lambda: not result_of(store, store.exists(keys[1:])).any(), "the block expires")


def test_a_get_waits_for_a_block_that_is_still_to_come(store):
    keys, blocks, buffers = some_keys(1), some_blocks(1), np.zeros((1, BLOCK_BYTES), np.uint8)
    waiting = store.get(keys, buffers, wait_ms=HANG_MS)
    assert store.poll() == []
    writing = store.put(keys, blocks)
    ended = {}
    while len(ended) < 2:
        some = store.poll(HANG_MS)
        assert some, "a completion was lost"
        ended.update(some)
    assert ended[waiting].all_ok
    assert ended[writing].all_ok
    assert (buffers == blocks).all()


def test_a_block_of_another_length_is_a_miss(store):
    keys, blocks = some_keys(2), some_blocks(2)
    assert result_of(store, store.put(keys, blocks)).all_ok
    buffers = [np.zeros(BLOCK_BYTES, np.uint8), np.zeros(BLOCK_BYTES // 2, np.uint8)]
    read = result_of(store, store.get(keys, buffers))
    assert read.status.tolist() == [Status.OK, Status.MISS]
    assert read.cause.tolist() == [Status.OK, Status.WRONG_SIZE]


def test_the_descriptor_says_when_to_poll(store):
    keys = some_keys(1)
    readable = select.poll()
    readable.register(store, select.POLLIN)  # by its fileno()
    assert select.select([store], [], [], 0) == ([], [], [])
    tickets = {store.match(keys), store.exists(keys)}
    ended = set()
    while ended != tickets:
        assert readable.poll(HANG_MS), f"{tickets - ended} never ended"
        assert select.select([store], [], [], 0) == ([store], [], [])
        ended |= {completion.ticket for completion in store.poll()}
    assert readable.poll(0) == []


def test_polling_waits_only_as_long_as_it_is_told(store):
    assert store.poll() == []
    assert store.poll(wait_ms=1) == []


def test_what_is_pending_is_counted_until_it_is_polled(store):
    tickets = [store.match(some_keys(1)) for _ in range(5)]
    assert store.pending == 5
    ended = []
    while len(ended) < 5:
        some = store.poll(HANG_MS)
        assert some
        ended += [completion.ticket for completion in some]
        assert store.pending == 5 - len(ended)
    assert sorted(ended) == sorted(tickets)


def test_threads_submit_and_poll_at_once(store):
    keys, blocks = some_keys(60), some_blocks(60)
    tickets, ended = [], []  # appending is atomic

    def work(number):
        for at in range(number, 60, 3):
            tickets.append(store.put(keys[at : at + 1], blocks[at : at + 1]))
            ended.extend(store.poll(wait_ms=1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_MS / 1000)
    while store.pending:
        some = store.poll(HANG_MS)
        assert some, "a completion was lost"
        ended += some
    assert sorted(completion.ticket for completion in ended) == sorted(tickets)
    assert all(completion.result.all_ok for completion in ended)
    assert result_of(store, store.match(keys)) == 60


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda store: store.match(some_keys(1)[:, :31]), InvalidArgumentError, "keys"),
        (lambda store: store.get(some_keys(2), some_blocks(1)), InvalidArgumentError, "buffers"),
        (lambda store: store.put(some_keys(1), some_blocks(1), ttl_s=-1), InvalidArgumentError, "ttl_s"),
        (lambda store: store.match(some_keys(1), timeout_ms=-1), InvalidArgumentError, "timeout_ms"),
        (lambda store: store.put(some_keys(1), some_blocks(1), first_depth=-1), InvalidArgumentError, "first_depth"),
        (lambda store: store.put(some_keys(1), [bytes((64 << 20) + 1)]), BlockTooLargeError, "max_block_bytes"),
    ],
)
def test_arguments_of_no_use_are_refused_and_leave_nothing_pending(store, use, error, message):
    with pytest.raises(error, match=message):
        use(store)
    assert store.pending == 0
    assert result_of(store, store.match(some_keys(1))) == 0


class TestEnd:
    def test_closing_while_something_is_pending(self, store):
        buffers = np.zeros((1, BLOCK_BYTES), np.uint8)
        store.get(some_keys(1), buffers, wait_ms=HANG_MS)
        store.close()
        store.close()
        assert store.pending == 0
        assert not store.connected
        assert store.timeouts == 0
        for use in (store.poll, lambda: store.match(some_keys(1)), store.stats):
            with pytest.raises(ClosedError, match="close"):
                use()

    def test_closing_while_other_threads_poll(self, store):
        outcomes, polling = [], threading.Barrier(3)

        def poll():
            polling.wait(HANG_MS / 1000)
            try:
                while True:
                    store.match(some_keys(1))
                    store.poll(wait_ms=50)
            except ClosedError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=poll) for _ in range(2)]
        for thread in threads:
            thread.start()
        polling.wait(HANG_MS / 1000)
        store.close()
        for thread in threads:
            thread.join(HANG_MS / 1000)
        assert len(outcomes) == 2

    def test_a_result_that_was_drained_when_another_thread_closed_is_none(self, store, monkeypatch):
        class ClosesMeanwhile:
            def drain(self):
                ended = [(1, 0)]
                store.close()
                return ended

        store.match(some_keys(1))
        monkeypatch.setattr(store, "_native", ClosesMeanwhile())
        assert store.poll() == []

    def test_a_dropped_client_is_closed(self, node):
        with kvstore.connect(node.url) as observer:
            dropped = kvstore.connect_polled(node.url)
            dropped.match(some_keys(1))
            assert observer.stats()["node"]["sessions_open"] == 2
            del dropped
            gc.collect()
            wait_until(lambda: observer.stats()["node"]["sessions_open"] == 1, "the session is closed")

    def test_a_forked_child_is_told_and_the_parent_goes_on(self, store):
        pending = store.match(some_keys(1))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for use in (store.poll, lambda: store.match(some_keys(1)), store.stats):
                    with pytest.raises(ClosedError, match="fork"):
                        use()
                status = 2 if store.connected or store.timeouts else 0
                store.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert result_of(store, pending) == 0


class TestTrouble:
    @pytest.mark.parametrize("lane", LANES)
    def test_a_frozen_node_costs_the_deadline(self, node, lane):
        keys = some_keys(2)
        with kvstore.connect_polled(node.url, lane=lane, timeout_ms=HANG_MS) as store:
            assert result_of(store, store.put(keys, some_blocks(2))).all_ok
            assert store.timeouts == 0
            node.freeze()
            assert result_of(store, store.match(keys, timeout_ms=100)) == 0
            assert store.timeouts == 2
            read = result_of(store, store.get(keys, np.zeros((2, BLOCK_BYTES), np.uint8), timeout_ms=100))
            assert read.cause.tolist() == [Status.TIMEOUT] * 2
            assert store.timeouts == 4

    @pytest.mark.parametrize("lane", LANES)
    def test_a_killed_node_is_misses_until_it_is_back(self, node, lane):
        keys = some_keys(2)
        config = ClientConfig(lane=lane, timeout_ms=HANG_MS, reconnect_backoff_ms_max=50)
        with kvstore.connect_polled(node.url, config=config) as store:
            assert store.lane == lane
            node.freeze()
            buffers = np.zeros((2, BLOCK_BYTES), np.uint8)
            under_way = store.get(keys, buffers)
            node.kill()
            assert result_of(store, under_way).cause.tolist() == [Status.UNAVAILABLE] * 2
            wait_until(lambda: not store.connected, "the loss is noticed")
            assert result_of(store, store.put(keys, some_blocks(2))).cause.tolist() == [Status.UNAVAILABLE] * 2
            assert result_of(store, store.match(keys)) == 0
            node.start()
            wait_until(lambda: store.connected, "the client is back by itself", 20)
            assert result_of(store, store.put(keys, some_blocks(2))).all_ok

    def test_a_node_that_may_be_away_is_found_when_it_comes(self, node):
        node.kill()
        config = ClientConfig(timeout_ms=HANG_MS, connect_timeout_ms=500, reconnect_backoff_ms_max=50)
        with pytest.raises(ConnectError):
            kvstore.connect_polled(node.url, config=config)
        with kvstore.connect_polled(node.url, config=config, may_be_away=True) as store:
            assert (store.connected, store.lane) == (False, "")
            assert result_of(store, store.match(some_keys(1))) == 0
            node.start()
            wait_until(lambda: store.connected, "the node is found", 20)
            assert store.lane == "mapped"
            assert result_of(store, store.put(some_keys(1), some_blocks(1))).all_ok

    def test_a_client_that_waits_may_find_its_node_later_as_well(self, node):
        node.kill()
        config = ClientConfig(timeout_ms=HANG_MS, connect_timeout_ms=500, reconnect_backoff_ms_max=50)
        with kvstore.connect(node.url, config=config, may_be_away=True) as store:
            assert store.match(some_keys(1)) == 0
            assert store.put(some_keys(1), some_blocks(1)).cause.tolist() == [Status.UNAVAILABLE]
            node.start()
            wait_until(lambda: store.put(some_keys(1), some_blocks(1)).all_ok, "the node is found", 20)
