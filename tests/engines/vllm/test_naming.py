"""What vLLM's chunks are called: whatever two engines must have in common is in the name, and nothing else."""

import dataclasses
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from vllm.config import VllmConfig
from vllm.utils.hashing import sha256, sha256_cbor
from vllm.v1.core.kv_cache_utils import init_none_hash

from kvstore.config import ConnectorConfig
from kvstore.connectors.vllm import naming
from kvstore.errors import ConfigError
from tests.connectors.driver import Identity
from tests.engines.vllm.driver import offloading_spec


def engine(*, commit=None, revision=None, algorithm="sha256", **model):
    """As much of vLLM's configuration as is looked at."""
    settings = {"dtype": "torch.float32", "quantization": None, "hf_overrides": {}, **model}
    return SimpleNamespace(
        model_config=SimpleNamespace(revision=revision, hf_config=SimpleNamespace(_commit_hash=commit), **settings),
        cache_config=SimpleNamespace(prefix_caching_hash_algo=algorithm, kv_cache_dtype_skip_layers=[]),
    )


def fingerprint(found, config=None, identity=None):
    return naming.namespace_of(
        config or ConnectorConfig(),
        offloading_spec(identity or Identity()).config,
        found,
        page_bytes=4096,
        layout="pages",
        extra_terms={},
    ).fingerprint


@pytest.fixture(autouse=True)
def hash_seed():
    init_none_hash(sha256)


def test_the_same_engine_gives_the_same_names():
    assert fingerprint(engine()) == fingerprint(engine())


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "abc"},
        {"revision": "v2"},
        {"dtype": "torch.bfloat16"},
        {"quantization": "fp8"},
        {"hf_overrides": {"rope_theta": 1e6}},
        {"algorithm": "sha256_cbor"},
    ],
)
def test_what_changes_the_values_changes_the_names(change):
    assert fingerprint(engine(**change)) != fingerprint(engine())


def test_a_hash_of_another_seed_or_algorithm_gives_other_names(monkeypatch):
    names = {fingerprint(None)}
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    init_none_hash(sha256)
    names.add(fingerprint(None))
    init_none_hash(sha256_cbor)
    names.add(fingerprint(None))
    assert len(names) == 3


def test_the_operator_can_name_model_and_revision():
    config = ConnectorConfig(model="one name", revision="one revision")
    here = fingerprint(engine(commit="abc"), config, Identity(model="/models/here"))
    assert here == fingerprint(engine(commit="def"), config, Identity(model="/models/there"))


def test_versions_that_were_seen_to_agree_share_names(monkeypatch):
    def of(*version):
        monkeypatch.setattr(naming, "__version_tuple__", version)
        monkeypatch.setattr(naming, "__version__", ".".join(map(str, version)))
        return fingerprint(engine())

    assert of(0, 32, 0) == of(0, 33, 0)
    assert len({of(0, 33, 0), of(0, 34, 0), of(0, 34, 1), of(1, 0, 0)}) == 4


def test_the_configuration_of_the_engine_is_found():
    vllm_config = object.__new__(VllmConfig)

    def set_up_a_tier():
        return naming.find_engine_config()

    assert set_up_a_tier() is vllm_config
    vllm_config = None
    assert set_up_a_tier() is None


@pytest.mark.parametrize("algorithm", ["xxhash", "xxhash_cbor"])
def test_hashes_that_no_other_process_has_are_refused(monkeypatch, algorithm):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(ConfigError, match="PYTHONHASHSEED"):
        naming.check_hash_seed(engine(algorithm=algorithm))
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    naming.check_hash_seed(engine(algorithm=algorithm))


def test_chunks_that_are_too_large_are_refused(monkeypatch):
    naming.check_page_bytes(1 << 20)
    monkeypatch.setenv("KVSTORE_CLIENT_MAX_BLOCK_BYTES", "512KiB")
    with pytest.raises(ConfigError, match="blocks_per_chunk"):
        naming.check_page_bytes(1 << 20)


def test_world_sizes_share_names_where_vllm_says_that_bytes_do_not_depend_on_them(monkeypatch):
    from kvstore.connectors.vllm import KVStoreTier

    def namespace(world_size, **config):
        spec = offloading_spec(Identity(world_size=world_size))
        parallel = dataclasses.replace(spec.config.parallel, is_parallelism_agnostic=True)
        spec.config = dataclasses.replace(spec.config, parallel=parallel, **config)
        tier = KVStoreTier(spec, memoryview(bytearray(8192)).cast("b", (2, 4096)), "t", endpoint="kv://127.0.0.1:1")
        try:
            return tier.namespace
        finally:
            tier.shutdown()

    assert namespace(1, canonical_layout=True) == namespace(2, canonical_layout=True)
    assert namespace(1) != namespace(2)
    assert namespace(1, canonical_layout=True) != namespace(1)
