"""The transformers connector with real models, real caches and the embedded store."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, QuantizedCache, StaticCache  # noqa: E402

import kvstore  # noqa: E402
from kvstore.config import ClientConfig  # noqa: E402
from kvstore.connectors import transformers as connector_module  # noqa: E402
from kvstore.connectors.transformers import TransformersConnector, namespace_for  # noqa: E402
from kvstore.errors import InvalidArgumentError, UnsupportedError  # noqa: E402
from tests.node_process import wait_until  # noqa: E402
from tests.support.node import Node  # noqa: E402

BLOCK = 16
TOKENS = [(7 * i * i + 3 * i) % 256 for i in range(10 * BLOCK + 5)]
BOUNDARY = 10 * BLOCK


def build(*, dtype=torch.float32, seed=0, **changes):
    settings = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).to(dtype).eval()


def prefill(model, tokens, cache=None):
    """The logits of the last token, and the cache."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    with torch.inference_mode():
        return model(torch.tensor([list(tokens)]), past_key_values=cache).logits[0, -1], cache


def same_kv(cache, other, tokens):
    return all(
        torch.equal(mine[:, :, :tokens], theirs[:, :, :tokens])
        for layer, of_other in zip(cache.layers, other.layers, strict=True)
        for mine, theirs in ((layer.keys, of_other.keys), (layer.values, of_other.values))
    )


@pytest.fixture
def store():
    with kvstore.connect("embedded://?memory=64MiB", timeout_ms=5000) as client:
        yield client


@pytest.fixture
def model():
    return build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_saved_prefix_comes_back_bit_for_bit(store, monkeypatch, dtype, kv_heads):
    # So small that the prefix takes several batches, the last of them not full.
    monkeypatch.setattr(connector_module, "_WINDOW_BYTES", 3 * BLOCK * 2 * 3 * kv_heads * 16 * dtype.itemsize)
    model = build(dtype=dtype, num_key_value_heads=kv_heads)
    _, cache = prefill(model, TOKENS[:BOUNDARY])
    report = TransformersConnector(store, model, revision="r").save_prefix(cache, TOKENS)
    assert (report.blocks, report.blocks_present, report.blocks_stored, report.complete) == (10, 0, 10, True)
    assert report.bytes_stored == 10 * BLOCK * 3 * 2 * kv_heads * 16 * dtype.itemsize

    reader = TransformersConnector(store, build(dtype=dtype, num_key_value_heads=kv_heads), revision="r")
    loaded = reader.load_prefix(TOKENS)
    assert (loaded.tokens, loaded.blocks, loaded.bytes) == (BOUNDARY, 10, report.bytes_stored)
    assert same_kv(loaded.cache, cache, BOUNDARY)
    expected, _ = prefill(model, TOKENS[BOUNDARY:], cache)
    logits, _ = prefill(model, TOKENS[BOUNDARY:], loaded.cache)
    assert torch.equal(logits, expected)


def test_loaded_cache_serves_generate(store, model):
    connector = TransformersConnector(store, model, revision="r")
    _, cache = prefill(model, TOKENS)
    connector.save_prefix(cache, TOKENS)
    ids = torch.tensor([TOKENS])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    loaded = connector.load_prefix(ids)
    assert loaded.tokens == BOUNDARY
    warm = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=loaded.cache, **settings)
    assert torch.equal(warm, plain)


def test_loaded_kv_is_really_used(store, model):
    connector = TransformersConnector(store, model, revision="r")
    connector.save_prefix(prefill(model, TOKENS)[1], TOKENS)
    logits, _ = prefill(model, TOKENS[BOUNDARY:], connector.load_prefix(TOKENS).cache)
    zeroed = connector.load_prefix(TOKENS).cache
    for keys, values, *_ in zeroed:
        keys.zero_()
        values.zero_()
    assert (prefill(model, TOKENS[BOUNDARY:], zeroed)[0] - logits).abs().max() > 0.01


def test_blocks_live_as_long_as_the_namespace_says_or_the_call(store, model):
    brief = TransformersConnector(store, model, revision="r", ttl_s=1)
    lasting = TransformersConnector(store, model, revision="r")
    assert brief.namespace == lasting.namespace
    cache = prefill(model, TOKENS)[1]
    assert brief.save_prefix(cache, TOKENS, salt=b"as the namespace says").complete
    assert brief.save_prefix(cache, TOKENS, salt=b"as the call says", ttl_s=600).complete
    assert lasting.save_prefix(cache, TOKENS, salt=b"as the other call says", ttl_s=1).complete
    assert lasting.save_prefix(cache, TOKENS, salt=b"for ever").complete

    def found(salt):
        return brief.load_prefix(TOKENS, salt=salt).tokens

    expiring = (b"as the namespace says", b"as the other call says")
    wait_until(lambda: not any(found(salt) for salt in expiring), "the blocks with a short time expire")
    assert found(b"as the call says") == found(b"for ever") == BOUNDARY


def test_one_token_is_always_left_to_compute(store, model):
    connector = TransformersConnector(store, model, revision="r")
    connector.save_prefix(prefill(model, TOKENS)[1], TOKENS)
    for length, loaded in ((0, 0), (1, 0), (BLOCK, 0), (BLOCK + 1, BLOCK), (BOUNDARY, BOUNDARY - BLOCK)):
        assert connector.load_prefix(TOKENS[:length]).tokens == loaded, length


def test_longest_common_prefix_is_loaded_and_the_rest_is_added(store, model):
    connector = TransformersConnector(store, model, revision="r")
    connector.save_prefix(prefill(model, TOKENS)[1], TOKENS)
    other = TOKENS[: 4 * BLOCK + 3] + [255] * 3 * BLOCK
    loaded = connector.load_prefix(other)
    assert loaded.tokens == 4 * BLOCK

    prefill(model, other[loaded.tokens :], loaded.cache)
    report = connector.save_prefix(loaded.cache, other)
    assert (report.blocks, report.blocks_present, report.blocks_stored) == (7, 4, 3)
    again = connector.load_prefix(np.array(other))
    assert again.tokens == 7 * BLOCK
    assert same_kv(again.cache, loaded.cache, again.tokens)


def test_cache_and_tokens_may_differ_in_length(store, model):
    connector = TransformersConnector(store, model, revision="r")
    _, cache = prefill(model, TOKENS)
    assert connector.save_prefix(cache, TOKENS[: 3 * BLOCK + 1]).blocks == 3
    assert connector.save_prefix(cache, TOKENS + [1] * 100).blocks == 10
    assert connector.save_prefix(DynamicCache(config=model.config), TOKENS).blocks == 0


def test_gap_ends_the_prefix(store, model):
    connector = TransformersConnector(store, model, revision="r")
    connector.save_prefix(prefill(model, TOKENS)[1], TOKENS)
    store.delete(connector.namespace.chain(TOKENS)[6:7])
    assert connector.load_prefix(TOKENS).tokens == 6 * BLOCK


def test_block_lost_between_match_and_get_shortens_the_prefix(store, model, monkeypatch):
    connector = TransformersConnector(store, model, revision="r")
    _, cache = prefill(model, TOKENS)
    connector.save_prefix(cache, TOKENS)
    match = store.match

    def match_then_lose(keys, **options):
        found = match(keys, **options)
        store.delete(keys[3:4])
        return found

    monkeypatch.setattr(store, "match", match_then_lose)
    loaded = connector.load_prefix(TOKENS)
    assert loaded.tokens == 3 * BLOCK
    assert same_kv(loaded.cache, cache, loaded.tokens)
    assert loaded.cache.get_seq_length() == loaded.tokens


def test_block_of_another_size_is_a_miss(store, model):
    connector = TransformersConnector(store, model, revision="r")
    keys = connector.namespace.chain(TOKENS)
    assert store.put(keys, np.zeros((len(keys), 8), dtype=np.uint8)).all_ok
    loaded = connector.load_prefix(TOKENS)
    assert (loaded.tokens, loaded.cache.get_seq_length()) == (0, 0)


def test_prefix_larger_than_the_store_keeps_its_start(monkeypatch):
    model = build(hidden_size=256, num_key_value_heads=4)
    block_bytes = namespace_for(model, revision="r").block_bytes
    monkeypatch.setattr(connector_module, "_WINDOW_BYTES", 4 * block_bytes)
    tokens = TOKENS * 4
    with kvstore.connect("embedded://?memory=2MiB", timeout_ms=5000) as store:
        connector = TransformersConnector(store, model, revision="r")
        report = connector.save_prefix(prefill(model, tokens)[1], tokens)
        assert report.blocks * block_bytes > 2 << 20
        assert not report.complete
        assert report.blocks_stored > 10
        assert connector.load_prefix(tokens).blocks == report.blocks_stored


@pytest.mark.parametrize(
    "other",
    [
        {"revision": "other"},
        {"block_size": 32},
        {"model_name": "other"},
        {"tenant_secret": b"other"},
        {"dtype": torch.bfloat16},
        {"num_key_value_heads": 4},
        {"num_hidden_layers": 2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        {"rms_norm_eps": 1e-5},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_changes_the_meaning_of_the_bytes_misses(store, other):
    connector = TransformersConnector(store, build(), revision="r")
    connector.save_prefix(prefill(build(), TOKENS)[1], TOKENS)
    assert connector.load_prefix(TOKENS).tokens == BOUNDARY
    options = {
        name: other.pop(name) for name in ("revision", "block_size", "model_name", "tenant_secret") if name in other
    }
    stranger = TransformersConnector(store, build(**other), **{"revision": "r", **options})
    assert stranger.load_prefix(TOKENS).tokens == 0


def test_salt_separates(store, model):
    connector = TransformersConnector(store, model, revision="r")
    connector.save_prefix(prefill(model, TOKENS)[1], TOKENS, salt=b"one")
    assert connector.load_prefix(TOKENS, salt=b"one").tokens == BOUNDARY
    assert connector.load_prefix(TOKENS, salt=b"two").tokens == 0
    assert connector.load_prefix(TOKENS).tokens == 0


def test_settings_without_effect_on_kv_do_not_separate():
    model, other = build(), build(seed=1)
    other.config.pad_token_id = 3
    other.config.use_cache = False
    assert namespace_for(model, revision="r") == namespace_for(other, revision="r")


def test_geometry_comes_from_the_configuration():
    namespace = namespace_for(build(head_dim=24, dtype=torch.bfloat16), revision="r", block_size=8)
    layout = namespace.layout
    assert (layout.layers, layout.kv_heads, layout.head_size, layout.dtype) == (3, 2, 24, "bfloat16")
    assert namespace.block_bytes == 3 * 2 * 2 * 8 * 24 * 2


def tiny(config_class, **settings):
    """A model of `config_class`, as small as it gets, on the meta device: nothing is computed with it."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config_class(**sizes, **heads, **settings))


@pytest.mark.parametrize(
    ("unsupported", "why"),
    [
        (lambda: tiny(transformers.MistralConfig, sliding_window=64), "DynamicSlidingWindowLayer"),
        (lambda: tiny(transformers.Gemma3TextConfig, sliding_window=64), "DynamicSlidingWindowLayer"),
        (
            lambda: build(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}),
            "whole prompt",
        ),
        (lambda: build(dtype=torch.float64), "float64"),
    ],
    ids=["sliding", "hybrid", "dynamic-rope", "float64"],
)
def test_models_that_cannot_be_stored_are_refused(unsupported, why):
    with pytest.raises(UnsupportedError, match=why):
        namespace_for(unsupported(), revision="r")


class Adapter:
    """As PEFT describes one."""

    def __init__(self, *, virtual_tokens=False):
        self.is_prompt_learning = virtual_tokens


def test_a_model_with_adapters_needs_the_name_of_the_active_one(store, model):
    _, cache = prefill(model, TOKENS)
    model.peft_config = {"default": Adapter()}
    connector = TransformersConnector(store, model, revision="r")
    with pytest.raises(UnsupportedError, match="name the active ones"):
        connector.save_prefix(cache, TOKENS)
    with pytest.raises(UnsupportedError, match="name the active ones"):
        connector.load_prefix(TOKENS)
    assert connector.save_prefix(cache, TOKENS, adapter="style@1").complete
    assert connector.load_prefix(TOKENS, adapter="style@1").tokens == BOUNDARY
    assert connector.load_prefix(TOKENS, adapter="style@2").tokens == 0
    assert connector.load_prefix(TOKENS, salt=b"style@1", adapter="none").tokens == 0
    bare = TransformersConnector(store, build(), revision="r")
    assert bare.load_prefix(TOKENS).tokens == 0
    assert bare.load_prefix(TOKENS, salt=b"style@1").tokens == 0


def test_adapters_with_virtual_tokens_are_refused(model):
    model.peft_config = {"default": Adapter(virtual_tokens=True)}
    with pytest.raises(UnsupportedError, match="virtual tokens"):
        namespace_for(model, revision="r")


def test_encoder_decoder_is_refused():
    sizes = {"vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes))
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        namespace_for(model, revision="r")


def test_caches_that_cannot_be_stored_are_refused(store, model):
    connector = TransformersConnector(store, model, revision="r")
    with torch.inference_mode():
        batch_of_two = model(torch.tensor([TOKENS, TOKENS])).past_key_values
    with pytest.raises(UnsupportedError, match="batch 1"):
        connector.save_prefix(batch_of_two, TOKENS)
    with pytest.raises(UnsupportedError, match="not one sequence"):
        connector.load_prefix([TOKENS, TOKENS])
    static = StaticCache(config=model.config, max_cache_len=256)
    prefill(model, TOKENS, static)
    with pytest.raises(UnsupportedError, match="StaticLayer"):
        connector.save_prefix(static, TOKENS)
    quantised = QuantizedCache("fp8", model.config)
    prefill(model, TOKENS, quantised)
    with pytest.raises(UnsupportedError, match="Fp8QuantizedLayer"):
        connector.save_prefix(quantised, TOKENS)
    other = build(num_key_value_heads=4)
    with pytest.raises(UnsupportedError, match="would hold"):
        connector.save_prefix(prefill(other, TOKENS)[1], TOKENS)
    half = build(dtype=torch.float16)
    with pytest.raises(UnsupportedError, match="float16"):
        connector.save_prefix(prefill(half, TOKENS)[1], TOKENS)
    assert store.match(connector.namespace.chain(TOKENS)) == 0


def test_tokens_that_are_none_are_refused(store, model):
    connector = TransformersConnector(store, model, revision="r")
    with pytest.raises(InvalidArgumentError):
        connector.load_prefix([-1] * 40)
    with pytest.raises(InvalidArgumentError):
        connector.load_prefix([0.5] * 40)


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path) as node:
        yield node


def test_prefix_travels_between_clients_of_a_node(node, model):
    _, cache = prefill(model, TOKENS)
    with kvstore.connect(node.url) as writer:
        assert TransformersConnector(writer, model, revision="r").save_prefix(cache, TOKENS).complete
    with kvstore.connect(node.url) as reader:
        loaded = TransformersConnector(reader, build(), revision="r").load_prefix(TOKENS)
    assert loaded.tokens == BOUNDARY
    assert same_kv(loaded.cache, cache, BOUNDARY)


def kill(node):
    node.kill()


def freeze(node):
    node.freeze()


@pytest.mark.parametrize("lose", [kill, freeze])
def test_lost_node_means_an_empty_prefix_and_no_exception(node, model, lose):
    with kvstore.connect(node.url, timeout_ms=500) as store:
        connector = TransformersConnector(store, model, revision="r")
        _, cache = prefill(model, TOKENS)
        assert connector.save_prefix(cache, TOKENS).complete
        assert connector.load_prefix(TOKENS).tokens == BOUNDARY
        lose(node)
        started = time.monotonic()
        loaded = connector.load_prefix(TOKENS)
        assert (loaded.tokens, loaded.cache.get_seq_length()) == (0, 0)
        report = connector.save_prefix(cache, [*TOKENS[:BLOCK], *TOKENS])
        assert (report.blocks_stored, report.complete) == (0, False)
        # Three operations at most, each within its deadline; the bound is generous, since what it excludes is for ever.
        assert time.monotonic() - started < 30
        expected, _ = prefill(model, TOKENS)
        assert torch.equal(prefill(model, TOKENS, loaded.cache)[0], expected)


def test_node_lost_between_batches_keeps_what_has_arrived(node, model, monkeypatch):
    monkeypatch.setattr(connector_module, "_WINDOW_BYTES", 2 * namespace_for(model, revision="r").block_bytes)
    with kvstore.connect(node.url, timeout_ms=500) as store:
        connector = TransformersConnector(store, model, revision="r")
        _, cache = prefill(model, TOKENS)
        assert connector.save_prefix(cache, TOKENS).complete
        get = store.get
        calls = 0

        def get_and_lose(keys, buffers, **options):
            nonlocal calls
            calls += 1
            if calls == 3:
                node.kill()
            return get(keys, buffers, **options)

        monkeypatch.setattr(store, "get", get_and_lose)
        loaded = connector.load_prefix(TOKENS)
        assert loaded.tokens == 4 * BLOCK
        assert same_kv(loaded.cache, cache, loaded.tokens)


def test_a_node_that_is_away_at_first_is_misses_until_it_comes(node, model):
    node.kill()
    _, cache = prefill(model, TOKENS)
    config = ClientConfig(connect_timeout_ms=500, reconnect_backoff_ms_max=50)
    with kvstore.connect(node.url, config=config, may_be_away=True) as store:
        connector = TransformersConnector(store, model, revision="r")
        assert connector.load_prefix(TOKENS).tokens == 0
        assert connector.save_prefix(cache, TOKENS).blocks_stored == 0
        node.start()
        wait_until(lambda: connector.save_prefix(cache, TOKENS).complete, "the node is found", 20)
        assert connector.load_prefix(TOKENS).tokens == BOUNDARY


def test_the_time_of_a_whole_call_is_limited(node, model, monkeypatch):
    monkeypatch.setattr(connector_module, "_WINDOW_BYTES", 2 * namespace_for(model, revision="r").block_bytes)
    with kvstore.connect(node.url, timeout_ms=60_000) as store:
        connector = TransformersConnector(store, model, revision="r")
        _, cache = prefill(model, TOKENS)
        assert connector.save_prefix(cache, TOKENS, timeout_ms=60_000).complete
        assert connector.load_prefix(TOKENS, timeout_ms=60_000).tokens == BOUNDARY

        def slow(keys, buffers, **options):
            time.sleep(0.2)
            return get(keys, buffers, **options)

        get = store.get
        monkeypatch.setattr(store, "get", slow)
        loaded = connector.load_prefix(TOKENS, timeout_ms=500)
        assert loaded.tokens in {2 * BLOCK, 4 * BLOCK, 6 * BLOCK}
        assert same_kv(loaded.cache, cache, loaded.tokens)
        node.freeze()
        started = time.monotonic()
        assert connector.load_prefix(TOKENS, timeout_ms=100).tokens == 0
        assert connector.save_prefix(cache, TOKENS, timeout_ms=100).blocks_stored == 0
        assert time.monotonic() - started < 30  # the client's own deadlines would make it two minutes


def test_prefixes_that_load_slower_than_they_compute_are_left_alone(store, model):
    gated = TransformersConnector(store, model, revision="r")
    ungated = TransformersConnector(store, model, revision="r", cost_gate=False)
    gated.save_prefix(prefill(model, TOKENS)[1], TOKENS)
    for connector in (gated, ungated):
        assert connector.load_prefix(TOKENS).tokens == BOUNDARY
        connector.note_prefill(10**12, 1e-6)
    assert gated.load_prefix(TOKENS).tokens == 0
    assert ungated.load_prefix(TOKENS).tokens == BOUNDARY
    assert (gated.stats()["gate_taken"], gated.stats()["gate_skipped"]) == (1, 1)
    assert (ungated.stats()["gate_taken"], ungated.stats()["gate_skipped"]) == (2, 0)


def test_statistics_add_up(store, model):
    connector = TransformersConnector(store, model, revision="r")
    assert set(connector.stats().values()) == {0}
    _, cache = prefill(model, TOKENS)
    connector.load_prefix(TOKENS)
    connector.save_prefix(cache, TOKENS)
    connector.load_prefix(TOKENS)
    stats, nbytes = connector.stats(), 10 * connector.namespace.block_bytes
    expected = {
        "lookups": 2,
        "lookup_blocks": 20,
        "lookup_hit_blocks": 10,
        "loads": 1,
        "load_blocks": 10,
        "load_good_blocks": 10,
        "load_bytes": nbytes,
        "saves": 1,
        "save_blocks": 10,
        "save_good_blocks": 10,
        "save_bytes": nbytes,
    }
    assert {name: stats[name] for name in expected} == expected
    assert min(stats[name] for name in ("lookup_seconds", "load_seconds", "save_seconds")) > 0


def test_failures_are_logged_once_a_minute(node, model, caplog):
    with kvstore.connect(node.url, timeout_ms=500) as store:
        connector = TransformersConnector(store, model, revision="r")
        _, cache = prefill(model, TOKENS)
        node.kill()
        for _ in range(5):
            connector.save_prefix(cache, TOKENS)
        assert caplog.messages.count("10 of 10 blocks are not stored") == 1
