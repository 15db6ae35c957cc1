"""What of an engine's configuration is in the names of its pages."""

import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

import torch
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.runtime_context import get_context

from kvstore.config import ConnectorConfig
from kvstore.connectors.sglang.host_pages import open_pages
from kvstore.connectors.sglang.identity import engine_settings, namespace_of
from kvstore.connectors.sglang.pool import PoolFactory
from tests.engines.sglang.pools import mha_pool, mla_pool, storage_config

ENDPOINT = "kv://127.0.0.1:1"


def namespace(pool, *, name=PoolName.KV, config=None, mapped=True, **changes):
    return namespace_of(
        *(storage_config(ENDPOINT, **changes), name, pool, open_pages(pool, mapped=mapped)),
        config=config or ConnectorConfig(),
        secret=b"",
        engine=engine_settings(),
    )


def published(**settings):
    """The namespace of a pool of the KV in an engine with such settings, and of one of a draft model's."""
    with get_context().override_server_args(**settings):
        pool = mha_pool(dtype=torch.uint8)
        return namespace(pool), namespace(pool, name=PoolName.DRAFT)


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        # SGLang keeps both as uint8.
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "fp8_e5m2"}),
        ({"revision": "2f1c"}, {"revision": "9d07"}),
        ({"quantization": "fp8"}, {"quantization": "awq"}),
        ({"dtype": "bfloat16"}, {"dtype": "float16"}),
        ({"load_format": "dummy"}, {"load_format": "auto"}),
        ({"json_model_override_args": '{"rope_theta": 1}'}, {"json_model_override_args": "{}"}),
    ],
)
def test_settings_that_change_the_kv_change_its_names(settings, others):
    assert published(**settings)[0].fingerprint != published(**others)[0].fingerprint
    assert published(**settings)[0] == published(**settings)[0]


def test_settings_that_do_not_change_it_do_not():
    settings = {"max_running_requests": 8, "hicache_ratio": 4.0, "served_model_name": "alias", "random_seed": 5}
    assert published()[0] == published(**settings)[0]


def test_a_draft_model_is_in_the_names_of_its_pages_only():
    first, second = (published(speculative_draft_model_path=path) for path in ("draft one", "draft two"))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[0] != first[1]


def test_layers_of_a_draft_packed_behind_the_model_count_as_its(monkeypatch):
    pool = mha_pool()
    plain = namespace(pool)
    monkeypatch.setattr(pool, "target_layer_num", pool.layer_num - 1)
    with get_context().override_server_args(speculative_draft_model_path="draft one"):
        first = namespace(pool)
    with get_context().override_server_args(speculative_draft_model_path="draft two"):
        second = namespace(pool)
    assert len({plain.fingerprint, first.fingerprint, second.fingerprint}) == 3


def test_the_model_is_the_one_that_was_loaded_unless_told_otherwise():
    pool = mha_pool()
    assert namespace(pool).model == "tiny"
    with get_context().override_server_args(served_model_name="alias"):
        assert namespace(pool, model="alias").model == "dummy"
    assert namespace(pool, config=ConnectorConfig(model="mine", revision="1")).model == "mine"


def test_ranks_are_in_the_names_of_what_they_split():
    assert namespace(mha_pool(), rank=1, world_size=2).rank == 1
    first, second = (namespace(mla_pool(), rank=rank, world_size=2, mla=True) for rank in (0, 1))
    assert first == second == namespace(mla_pool(), mla=True)


def test_pages_of_another_order_are_others():
    pool = mha_pool()
    assert namespace(pool) != namespace(pool, mapped=False)


def test_new_weights_are_noticed_once():
    with get_context().override_server_args(weight_version="one"):
        factory = PoolFactory(storage_config(ENDPOINT), ConnectorConfig(), secret=b"")
        pool = mha_pool()
        before = factory.describe(PoolName.KV, pool, mapped=True).namespace
        assert not factory.has_new_weights()
        get_context().override("test", weight_version="two")
        assert factory.has_new_weights()
        assert not factory.has_new_weights()
        assert factory.describe(PoolName.KV, pool, mapped=True).namespace != before
