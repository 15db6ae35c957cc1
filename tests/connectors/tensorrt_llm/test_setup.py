"""What the connector needs from the engine, and what it refuses before anything is shared."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from kvstore.errors import ConfigError, FingerprintMismatchError, UnsupportedError  # noqa: E402
from tests.connectors.tensorrt_llm import fake  # noqa: E402
from tests.connectors.tensorrt_llm.engine import (  # noqa: E402
    FakeEngine,
    KVStoreScheduler,
    KVStoreWorker,
    Request,
    arguments,
    environment,
    layout_of,
)

ROOT = Path(__file__).parents[3]
NOWHERE = "kv://127.0.0.1:1"
TOKENS = list(range(100))


@pytest.fixture
def settings():
    with environment(NOWHERE, {"lookup_timeout_ms": 100}):
        os.environ["KVSTORE_CLIENT_CONNECT_TIMEOUT_MS"] = "200"
        yield
        del os.environ["KVSTORE_CLIENT_CONNECT_TIMEOUT_MS"]


def run_python(script):
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("place", [fake.NEW_PLACE, fake.OLD_PLACE])
def test_the_interface_is_found_wherever_a_version_has_it(place):
    ended = run_python(
        f"from tests.connectors.tensorrt_llm import fake\n"
        f"fake.install({place!r})\n"
        f"from kvstore.connectors.tensorrt_llm import KVStoreScheduler, KVStoreWorker\n"
        f"print(KVStoreWorker.__mro__[1].__name__, KVStoreScheduler.__mro__[1].__name__)\n"
    )
    assert ended.stdout == "KvCacheConnectorWorker KvCacheConnectorScheduler\n", ended.stderr


def test_without_the_engine_the_import_says_what_is_missing():
    ended = run_python("import kvstore.connectors.tensorrt_llm")
    assert "ImportError: this connector needs tensorrt_llm" in ended.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"context_parallel_size": 2}, "context parallelism"),
        ({"enable_attention_dp": True}, "attention data parallelism"),
        ({"ranks": 16}, "16 ranks on nodes of 8 GPUs"),
        ({"max_beam_width": 4}, "beam search"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"windows": [4096, 512]}, "attention windows"),
        ({"windows": [512], "max_seq_len": None}, "attention windows"),
        ({"kv_dtype": "nvfp4"}, "NVFP4"),
        ({"model": None}, "have no model"),
        ({"tensor_parallel_size": None}, "have no tensor_parallel_size"),
        ({"kv_cache_config": None}, "have no kv_cache_config"),
        ({"kv_cache_config": SimpleNamespace(dtype="auto")}, "have no tokens_per_block"),
    ],
    ids=str,
)
@pytest.mark.parametrize("half", [KVStoreScheduler, KVStoreWorker])
def test_engines_whose_pages_cannot_be_kept_exact_are_refused(settings, half, changes, message):
    with pytest.raises(UnsupportedError, match=message):
        half(arguments(**changes))


def test_windows_as_long_as_any_request_are_none(settings):
    KVStoreScheduler(arguments(windows=[4096])).close()


@pytest.mark.parametrize("half", [KVStoreScheduler, KVStoreWorker])
def test_settings_come_from_the_environment_alone(monkeypatch, half):
    monkeypatch.delenv("KVSTORE_CONNECTOR_ENDPOINT", raising=False)
    with pytest.raises(ConfigError, match="endpoint is not set"):
        half(arguments())
    monkeypatch.setenv("KVSTORE_CONNECTOR_ENDPOINT", "embedded://?memory=1GiB")
    with pytest.raises(ConfigError, match="must be a node"):
        half(arguments())


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (lambda: torch.zeros(8, 3, 2, 16 * 8 + 1), "none of blocks of 16 tokens"),
        (lambda: torch.zeros(8, 3, 256), "none of blocks"),
        (lambda: torch.zeros(8, 3, 2, 512)[:, ::2], "none of blocks"),
    ],
)
def test_pools_that_are_none_are_refused(settings, pool, message):
    worker = KVStoreWorker(arguments())
    with pytest.raises(UnsupportedError, match=message):
        worker.register_kv_caches(pool())
    worker.close()


def groups_of(count):
    layout = layout_of([torch.zeros(4, 64, dtype=torch.uint8)] * 2, 16)
    layout.groups *= count
    return layout


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (lambda: groups_of(2), "only one group without a window"),
        (lambda: groups_of(0), "only one group without a window"),
        (lambda: layout_of([torch.zeros(4, 64, dtype=torch.uint8)], 16, window=512), r"windows \[512\]"),
        (lambda: layout_of([torch.zeros(4, 64, dtype=torch.uint8)], 16, expansion=2), "expansions other than 1"),
        (lambda: layout_of([torch.zeros(n, 64, dtype=torch.uint8) for n in (4, 5)], 16), "different numbers of slots"),
        (lambda: layout_of([torch.zeros(4, 64)], 16), "none of bytes"),
    ],
)
def test_layouts_that_are_not_understood_are_refused(settings, layout, message):
    worker = KVStoreWorker(arguments())
    with pytest.raises(UnsupportedError, match=message):
        worker.register_kv_cache_layout(layout())
    worker.close()


def test_the_block_size_is_that_of_the_layout(settings):
    llm_args = arguments(block_size=16)
    scheduler, worker = KVStoreScheduler(llm_args), KVStoreWorker(llm_args)
    worker.register_kv_cache_layout(layout_of([torch.zeros(4, 64, dtype=torch.uint8)], 32))
    scheduler.build_connector_meta(fake.SchedulerOutput())
    assert [space.block_size for space in scheduler._names.namespaces] == [32]
    scheduler.close()
    worker.close()


def names_of(pool=None, settings=None, **changes):
    """What an engine's blocks are called: (fingerprint, a key)."""
    with environment(NOWHERE, settings or {}):
        llm_args = arguments(**changes)
        scheduler, worker = KVStoreScheduler(llm_args), KVStoreWorker(llm_args)
    worker.register_kv_caches(torch.zeros(8, 3, 2, 512) if pool is None else pool)
    scheduler.build_connector_meta(fake.SchedulerOutput())
    names = scheduler._names
    scheduler.close()
    worker.close()
    return names.fingerprints[0], bytes(names.keys(TOKENS, b"")[0, 0])


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "another"},
        {"revision": "another"},
        {"revision": None},
        {"settings": {"model": "another"}},
        {"settings": {"revision": "another"}},
        {"dtype": "bfloat16"},
        {"kv_dtype": "fp8"},
        {"attn_backend": "FLASHINFER"},
        {"quant_config": SimpleNamespace(quant_algo="FP8")},
        {"block_size": 32},
        {"ranks": 2},
        {"pool": torch.zeros(8, 3, 2, 512, dtype=torch.bfloat16)},
        {"pool": torch.zeros(8, 6, 1, 512)},
    ],
    ids=str,
)
def test_whatever_changes_the_meaning_of_pages_changes_their_names(settings, changes):
    assert len({*names_of(), *names_of(**changes)}) == 4


def test_versions_of_the_engine_share_nothing(settings, monkeypatch):
    before = names_of()
    monkeypatch.setattr("kvstore.connectors.tensorrt_llm.pages.ENGINE_VERSION", "1.5.0")
    assert not {*before} & {*names_of()}


def test_settings_name_the_same_model_under_different_paths(settings):
    named = {"model": "llama", "revision": "1"}
    assert names_of(settings=named, model="/a") == names_of(settings=named, model="/b", revision=None)
    assert names_of(model="/a") != names_of(model="/b")


def test_the_number_of_blocks_changes_no_name(settings):
    assert names_of(torch.zeros(8, 3, 2, 512)) == names_of(torch.zeros(99, 3, 2, 512))


def test_a_tenant_secret_changes_keys_and_nothing_else(settings, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef")
    (fingerprint, key), (same, other) = names_of(), names_of(settings={"tenant_secret_file": secret})
    assert fingerprint == same
    assert key != other


def test_before_pages_are_registered_nothing_is_shared(settings):
    llm_args = arguments()
    scheduler, worker = KVStoreScheduler(llm_args), KVStoreWorker(llm_args)
    assert scheduler.get_num_new_matched_tokens(Request(1, TOKENS), 0) == (0, False)
    worker.bind_connector_meta(scheduler.build_connector_meta(fake.SchedulerOutput()))
    worker.start_load_kv(None)
    worker.wait_for_save(None)
    scheduler.close()
    worker.close()


class TestRanks:
    def test_names_differ_in_the_rank_alone(self, open_engine):
        engine = open_engine(ranks=2)
        engine.step()
        spaces = engine.scheduler._names.namespaces
        assert [(space.rank, space.world_size) for space in spaces] == [(0, 2), (1, 2)]
        assert dataclasses.replace(spaces[0], rank=1) == spaces[1]

    def test_that_do_not_agree_are_stopped_in_the_first_step(self, open_engine):
        engine = open_engine(ranks=2)
        engine.workers[1]._deployment = dataclasses.replace(engine.workers[1]._deployment, revision="another")
        engine.workers[1].register_kv_caches(torch.zeros(64, 3, 2, 256))
        with pytest.raises(FingerprintMismatchError, match="rank 1 is not what rank 0 takes it for"):
            engine.step()

    def test_that_cannot_see_the_memory_of_rank_0_are_stopped_in_the_first_step(self, open_engine):
        engine = open_engine(ranks=2)
        plan = engine.step()
        elsewhere = dataclasses.replace(plan.staging, path="/proc/1/fd/99999")
        engine.workers[1]._staging = None
        engine.workers[1].bind_connector_meta(dataclasses.replace(plan, staging=elsewhere))
        with pytest.raises(UnsupportedError, match="all ranks must run on one host"):
            engine.workers[1].start_load_kv(None)

    def test_in_other_processes_read_the_memory_of_rank_0(self, open_engine, node, fill, settle):
        engine = open_engine(ranks=2)
        request = Request(1, TOKENS)
        engine.admit(request)
        engine.step([engine.first(request)], forward=lambda: fill(engine, request))
        settle(engine)
        again = Request(2, TOKENS)
        assert engine.admit(again) == 96
        data = engine.first(again, scheduled=4)
        plan = engine.scheduler.build_connector_meta(fake.SchedulerOutput([data]))
        staging = engine.scheduler._staging
        assert staging.free < staging.place.slots
        with RankProcess(node.url) as rank_1:
            assert rank_1.load(plan, engine.blocks_of(again)[:6]) == [101, 102, 103, 104, 105, 106]
        assert staging.free < staging.place.slots, "rank 0 has not copied them yet"
        engine.workers[0].bind_connector_meta(plan)
        engine.workers[0].start_load_kv(None)
        assert staging.free == staging.place.slots

    def test_more_than_there_are_is_none(self, settings, monkeypatch):
        fake.set_rank(3)
        try:
            with pytest.raises(UnsupportedError, match="rank 3 of 2 is none"):
                KVStoreWorker(arguments(ranks=2))
        finally:
            fake.set_rank(0)


class RankProcess:
    """Rank 1 of two, in a process of its own."""

    def __init__(self, endpoint):
        self._endpoint = endpoint

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.connectors.tensorrt_llm.rank_process", self._endpoint],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def load(self, plan, blocks):
        """Carries out the plan; the first byte of each block afterwards."""
        import json
        import pickle

        printed, _ = self._process.communicate(pickle.dumps((plan, blocks)), timeout=60)
        assert self._process.returncode == 0
        return json.loads(printed)

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()


class TestNames:
    @pytest.fixture
    def saved_by(self, open_engine, fill, settle):
        """Saves the prompt under a request's names, and tells what requests with others find of it."""

        def save(**names):
            engine = open_engine()
            request = Request(1, TOKENS)
            vars(request).update(names)
            engine.admit(request)
            engine.step([engine.first(request)], forward=lambda: fill(engine, request))
            settle(engine)

            def find(**others):
                asking = Request(2, TOKENS)
                vars(asking).update(others)
                return engine.scheduler.get_num_new_matched_tokens(asking, 0)[0]

            return find

        return save

    def test_salt_and_adapter_keep_blocks_apart(self, saved_by):
        find = saved_by(cache_salt="salt", lora_task_id=1, py_lora_path="/adapters/a")
        assert find(cache_salt="salt", lora_task_id=9, py_lora_path="/adapters/a") == 96
        assert find(cache_salt="salt") == 0
        assert find(lora_task_id=1, py_lora_path="/adapters/a") == 0
        assert find(cache_salt="salt", lora_task_id=1, py_lora_path="/adapters/b") == 0
        assert find(cache_salt="/adapters/a") == 0
        assert find() == 0

    def test_the_number_of_a_salt_will_do(self, saved_by):
        find = saved_by(cache_salt_id=77)
        assert find(cache_salt_id=77) == 96
        assert find(cache_salt_id=78) == 0
        assert find(cache_salt="77") == 0

    @pytest.mark.parametrize(
        "names",
        [
            {"lora_task_id": 1},
            {"multimodal_hashes": [[1, 2]]},
            {"prompt_embedding_table": torch.zeros(1)},
            {"position_ids": [3, 4]},
            {"sampling_config": SimpleNamespace(beam_width=2)},
        ],
        ids=str,
    )
    def test_what_has_no_safe_name_is_neither_saved_nor_found(self, saved_by, names):
        find = saved_by(**names)
        assert find() == 0
        assert find(**names) == 0
        find = saved_by()
        assert find() == 96
        assert find(**names) == 0

    def test_a_request_that_does_not_tell_its_salt_is_left_alone(self, open_engine, fill, settle, saved_by):
        find = saved_by()
        assert find() == 96
        engine = open_engine()
        mute = SimpleNamespace(request_id=5, get_tokens=lambda beam: TOKENS)
        assert engine.scheduler.get_num_new_matched_tokens(mute, 0) == (0, False)

    def test_hashes_of_the_engine_are_not_trusted(self, open_engine, fill, settle):
        engine = open_engine()
        for number, tokens in ((1, TOKENS), (2, TOKENS[::-1])):
            request = Request(number, tokens)
            engine.admit(request)
            data = engine.first(request)
            data.block_hashes = [1, 2, 3, 4, 5, 6]
            assert len(engine.step([data], forward=lambda request=request: fill(engine, request)).saves) == 1
            settle(engine)
        assert engine.workers[0].stats()["save_good_blocks"] == 12


def test_the_rhythm_of_steps_teaches_the_gate(open_engine):
    engine = open_engine()
    now = [0.0]
    meter = engine.scheduler._prefill
    meter._clock = lambda: now[0]
    gate = engine.scheduler._store.gate

    def step(seconds, new=(), cached=()):
        now[0] += seconds
        data = [fake.RequestData(number, [], [], 0, tokens) for number, tokens in (*new, *cached)]
        meter.step(fake.SchedulerOutput(data[: len(new)], data[len(new) :]))

    step(0, new=[(1, 300)])
    step(5, new=[(2, 300)])
    assert gate.prefill_seconds(1) is None, "it may have been idle for those five seconds"
    step(3, cached=[(2, 1)])
    assert gate.prefill_seconds(300) == pytest.approx(3)
    step(100, cached=[(2, 1)])
    step(1, new=[(3, 100)])
    step(1, cached=[(3, 1)])
    assert gate.prefill_seconds(300) == pytest.approx(3)


def test_engines_of_one_process_do_not_meet_each_other(node):
    with environment(node.url, {}):
        one, other = FakeEngine(arguments()), FakeEngine(arguments(block_size=32))
    assert one.scheduler._meeting is one.workers[0]._meeting
    assert one.scheduler._meeting is not other.scheduler._meeting
    one.close()
    other.close()
