"""The backend as SGLang makes it, and what its threads meet."""

import contextlib
import itertools
import threading

import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

from sglang.srt.mem_cache.storage import StorageBackendFactory
from sglang.srt.runtime_context import get_context

from kvstore.connectors.sglang import KVStoreHiCache
from kvstore.connectors.sglang.prefill_times import PrefillTimes
from tests.engines.sglang.pools import mha_pool, page_hashes, read_pages, storage_config, write_pages
from tests.support.blocks import assert_same, blocks, chain
from tests.support.node import Node

PAGES = 6


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), memory="256MiB") as running:
        yield running


@pytest.fixture
def make(node):
    """Makes backends as SGLang does."""
    with contextlib.ExitStack() as opened:

        def make(pool, **changes):
            backend = StorageBackendFactory.create_backend("dynamic", storage_config(node.url, **changes), pool)
            opened.callback(getattr(backend, "_backend", backend).close)
            backend.register_mem_pool_host(pool)
            backend.on_host_pools_registered()
            return backend

        yield make


def fill(pool, name):
    slots = pool.alloc(PAGES * pool.page_size)
    write_pages(pool, slots, blocks(chain(name, PAGES), pool.size_per_token * pool.page_size))
    return slots


def test_sglang_loads_it_by_its_configuration(make):
    pool = mha_pool()
    backend = make(pool)
    assert isinstance(backend, KVStoreHiCache)
    hashes = page_hashes(1, PAGES, 16)
    assert backend.batch_set_v1(hashes, fill(pool, "factory")) == [True] * PAGES
    assert backend.batch_exists(hashes) == PAGES


def test_failures_that_sglang_injects_are_misses(make, monkeypatch):
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.5")
    pool = mha_pool()
    backend = make(pool)
    slots = fill(pool, "injected")
    outcomes = set()
    for prompt in range(2, 22):
        hashes = page_hashes(prompt, PAGES, 16)
        outcomes.add(("set", tuple(backend.batch_set_v1(hashes, slots))))
        outcomes.add(("get", tuple(backend.batch_get_v1(hashes, slots))))
    all_or_nothing = itertools.product(("set", "get"), ((True,) * PAGES, (False,) * PAGES))
    assert outcomes == set(all_or_nothing)


def test_three_threads_at_once(make):
    """As SGLang's lookups, loads and saves run: each gets its own answers, and the bytes stay right."""
    pool = mha_pool(pages=64)
    backend = make(pool)
    prompts = range(100, 130)
    stored = {prompt: threading.Event() for prompt in prompts}
    failures = []

    def content(prompt):
        return blocks(chain(f"threads {prompt}", PAGES), pool.size_per_token * pool.page_size)

    def save():
        slots = pool.alloc(PAGES * pool.page_size)
        for prompt in prompts:
            write_pages(pool, slots, content(prompt))
            assert backend.batch_set_v1(page_hashes(prompt, PAGES, 16), slots) == [True] * PAGES
            stored[prompt].set()

    def look_up():
        for prompt in prompts:
            assert backend.batch_exists(page_hashes(prompt + 1000, PAGES, 16)) == 0
            assert stored[prompt].wait(30)
            assert backend.batch_exists(page_hashes(prompt, PAGES, 16)) == PAGES

    def load():
        slots = pool.alloc(PAGES * pool.page_size)
        for prompt in prompts:
            assert stored[prompt].wait(30)
            assert backend.batch_get_v1(page_hashes(prompt, PAGES, 16), slots) == [True] * PAGES
            for found, expected in zip(read_pages(pool, slots), content(prompt), strict=True):
                assert_same(found, expected)

    def run(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)
            for event in stored.values():
                event.set()

    threads = [threading.Thread(target=run, args=(work,)) for work in (save, look_up, load)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures


def test_a_prefix_of_a_batch_is_loaded(make):
    """A page that is missing ends the run of those that SGLang uses; those before it are good."""
    pool = mha_pool()
    backend = make(pool)
    hashes = page_hashes(3000, PAGES, 16)
    slots = fill(pool, "holes")
    saved = [index for index in range(PAGES) if index != 3]
    backend.batch_set_v1([hashes[index] for index in saved], slots.view(PAGES, -1)[saved].reshape(-1))
    assert backend.batch_exists(hashes) == 3
    assert backend.batch_get_v1(hashes, slots) == [True, True, True, False, True, True]


def test_new_weights_find_nothing_of_the_old(make):
    with get_context().override_server_args(weight_version="one"):
        pool = mha_pool()
        backend = make(pool)
        hashes = page_hashes(3001, PAGES, 16)
        slots = fill(pool, "weights")
        assert backend.batch_set_v1(hashes, slots) == [True] * PAGES
        get_context().override("test", weight_version="two")
        assert backend.batch_exists(hashes) == 0
        assert backend.batch_get_v1(hashes, slots) == [False] * PAGES
        get_context().override("test", weight_version="one")
        assert backend.batch_exists(hashes) == PAGES


@pytest.mark.parametrize("on", [True, False])
def test_a_hit_that_loads_slower_than_it_computes_is_left_alone(make, on):
    pool = mha_pool()
    backend = make(pool, settings={"cost_gate": on})
    slots, hashes = fill(pool, "gate"), page_hashes(3002 + on, PAGES, 16)
    assert backend.batch_exists(hashes) == 0
    assert backend.batch_set_v1(hashes, slots) == [True] * PAGES  # it learns from here how long computing takes
    gate = backend._store._loads.store.gate
    assert gate.prefill_seconds(PAGES * 16) > 0
    assert backend.batch_exists(hashes) == PAGES
    for _ in range(200):
        gate.note_load(PAGES * 1000, 5.0)
    assert backend.batch_exists(hashes) == (0 if on else PAGES)
    assert backend.batch_exists_v2(hashes).kv_hit_pages == (0 if on else PAGES)
    skipped = backend.statistics()["gate_skipped"]
    assert skipped == (2 if on else 0)


def test_a_request_that_never_ends_ends_the_session(make, monkeypatch):
    """Its buffers must not be written to when SGLang has gone on: the session is closed before it is told."""
    pool = mha_pool()
    backend = make(pool)
    slots, hashes = fill(pool, "endless"), page_hashes(3010, PAGES, 16)
    assert backend.batch_set_v1(hashes, slots) == [True] * PAGES
    loads = backend._store._loads.store
    monkeypatch.setattr(loads, "wait", lambda tickets, timeout_ms: [])
    assert backend.batch_get_v1(hashes, slots) == [False] * PAGES
    assert not loads.connected
    monkeypatch.undo()
    assert backend.batch_get_v1(hashes, slots) == [False] * PAGES
    assert backend.batch_exists(hashes) == PAGES


def test_what_was_missed_long_ago_was_not_computed_now():
    now_s = 0.0
    times = PrefillTimes(clock=lambda: now_s)
    times.missed("a")
    times.missed("b")
    now_s = 2.5
    assert times.seconds_until("a") == 2.5
    assert times.seconds_until("a") is None
    now_s = 100.0
    assert times.seconds_until("b") is None


def test_misses_are_not_remembered_for_ever():
    times = PrefillTimes(clock=lambda: 0.0)
    for number in range(5000):
        times.missed(str(number))
    assert times.seconds_until("0") is None
    assert times.seconds_until("4999") == 0.0
