"""Tensor layouts: sizes, orders, refusals, and an encoding that tells any two apart."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import InvalidArgumentError
from kvstore.layout import DTYPE_BYTES, KVLayout, PageLayout

LLAMA = KVLayout(layers=4, kv_heads=2, head_size=32, dtype="float32")


@st.composite
def layouts(draw):
    size = st.integers(1, 200)
    dtype = draw(st.sampled_from(sorted(DTYPE_BYTES)))
    if draw(st.booleans()):
        order = "".join(draw(st.permutations("LND")))
        rope_size = draw(st.integers(0, 64))
        return KVLayout.mla(layers=draw(size), latent_size=draw(size), rope_size=rope_size, dtype=dtype, order=order)
    order = "".join(draw(st.permutations("LPHND")))
    return KVLayout(layers=draw(size), kv_heads=draw(size), head_size=draw(size), dtype=dtype, order=order)


@pytest.mark.parametrize(
    ("layout", "bytes_per_token"),
    [
        (LLAMA, 4 * 2 * 2 * 32 * 4),
        (KVLayout(layers=32, kv_heads=8, head_size=128, dtype="bfloat16"), 131_072),  # Llama 3 8B
        (KVLayout(layers=32, kv_heads=32, head_size=128, dtype="float16"), 524_288),  # Llama 2 7B, multi-head
        (KVLayout(layers=32, kv_heads=8, head_size=128, dtype="float8_e4m3"), 65_536),
        (KVLayout.mla(layers=61, latent_size=512, rope_size=64, dtype="bfloat16"), 61 * 576 * 2),  # DeepSeek-V3
        (KVLayout.mla(layers=61, latent_size=512, rope_size=64, dtype="float8_e5m2"), 61 * 576),
    ],
)
def test_bytes_per_token(layout, bytes_per_token):
    assert layout.bytes_per_token == bytes_per_token
    assert layout.block_bytes(16) == 16 * bytes_per_token


def test_block_shape_follows_the_order():
    assert LLAMA.block_shape(16) == (4, 2, 2, 16, 32)
    assert dataclasses.replace(LLAMA, order="PNLHD").block_shape(16) == (2, 16, 4, 2, 32)
    latent = KVLayout.mla(layers=3, latent_size=8, rope_size=2, dtype="float16", order="NLD")
    assert latent.block_shape(16) == (16, 3, 10)
    assert latent.is_mla
    assert not LLAMA.is_mla


@given(layouts(), st.integers(1, 512))
def test_block_bytes_are_those_of_the_shape_in_any_order(layout, block_size):
    assert layout.block_bytes(block_size) == math.prod(layout.block_shape(block_size)) * layout.element_bytes
    assert layout.block_bytes(block_size) == block_size * layout.bytes_per_token


@given(layouts(), layouts())
def test_canonical_encodings_are_equal_exactly_for_equal_layouts(a, b):
    assert (a.canonical() == b.canonical()) == (a == b)


@given(layouts())
def test_canonical_encoding_names_every_field(layout):
    words = dict(word.split("=") for word in layout.canonical().decode("ascii").split(" ")[1:])
    rope = None if words["rope"] == "-" else int(words["rope"])
    sizes = {name: int(words[name]) for name in ("layers", "kv_heads", "head_size")}
    assert KVLayout(**sizes, dtype=words["dtype"], order=words["order"], rope_size=rope) == layout


def test_canonical_encoding_is_frozen():
    assert LLAMA.canonical() == b"kvlayout/1 layers=4 kv_heads=2 head_size=32 dtype=float32 order=LPHND rope=-"
    latent = KVLayout.mla(layers=61, latent_size=512, rope_size=64, dtype="bfloat16")
    assert latent.canonical() == b"kvlayout/1 layers=61 kv_heads=1 head_size=576 dtype=bfloat16 order=LND rope=64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be an integer from 1"),
        ({"layers": True}, "layers must be an integer"),
        ({"layers": 2.0}, "layers must be an integer"),
        ({"kv_heads": -1}, "kv_heads must be"),
        ({"head_size": 1 << 21}, "head_size must be an integer from 1 to 1048576, not 2097152"),
        ({"dtype": "bf16"}, "dtype 'bf16' is not supported; use one of float16, bfloat16"),
        ({"dtype": ["float16"]}, "is not supported"),
        ({"order": "LND"}, "must name each of the axes L, P, H, N, D exactly once"),
        ({"order": "LPHNN"}, "must name each of the axes"),
        ({"order": ["L", "P", "H", "N", "D"]}, "must name each of the axes"),
        ({"rope_size": 8}, "build it with KVLayout.mla"),
    ],
)
def test_impossible_layouts_are_refused(change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        dataclasses.replace(LLAMA, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_size": 0}, "latent_size must be"),
        ({"rope_size": -1}, "rope_size must be"),
        ({"rope_size": None}, "rope_size must be"),
        ({"order": "LPHND"}, "must name each of the axes L, N, D exactly once"),
    ],
)
def test_impossible_latent_layouts_are_refused(change, message):
    valid = {"layers": 2, "latent_size": 8, "rope_size": 4, "dtype": "float16"}
    with pytest.raises(InvalidArgumentError, match=message):
        KVLayout.mla(**(valid | change))


@pytest.mark.parametrize("block_size", [0, -1, True, 1.5, "16"])
def test_impossible_block_sizes_are_refused(block_size):
    with pytest.raises(InvalidArgumentError, match="block_size must be"):
        LLAMA.block_bytes(block_size)


PAGES = {"engine": "vllm", "dtype": "fp8_e4m3", "page_bytes": 4096, "terms": {"order": "LBNHC", "groups": [[0, 1], 16]}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
page_layouts = st.builds(
    PageLayout,
    engine=st.sampled_from(["vllm", "sglang"]),
    dtype=st.text(min_size=1, max_size=3),
    page_bytes=st.integers(1, 1 << 40),
    terms=st.dictionaries(st.text(max_size=3), json_values, max_size=3),
)


def test_a_page_is_a_block_however_many_tokens_it_has():
    layout = PageLayout(**PAGES)
    assert layout.block_bytes(1) == layout.block_bytes(1000) == 4096


def test_canonical_encoding_of_pages_is_frozen():
    expected = b'pagelayout/1 ["vllm","fp8_e4m3",4096,["groups","[[0, 1], 16]"],["order","\\"LBNHC\\""]]'
    assert PageLayout(**PAGES).canonical() == expected


@given(page_layouts, page_layouts)
def test_canonical_encodings_of_pages_are_equal_exactly_for_equal_layouts(a, b):
    assert (a.canonical() == b.canonical()) == (a == b)


@given(page_layouts)
def test_pages_never_share_an_encoding_with_tensors(layout):
    assert not layout.canonical().startswith(b"kvlayout/")


def test_terms_are_taken_in_any_order_and_frozen():
    terms = {"a": [1, 2], "b": {"y": 1, "x": 2}}
    layout = PageLayout(**(PAGES | {"terms": terms}))
    turned = PageLayout(**(PAGES | {"terms": {"b": {"x": 2, "y": 1}, "a": (1, 2)}}))
    assert layout == turned
    assert hash(layout) == hash(turned)
    assert layout.canonical() == turned.canonical()
    terms["a"].append(3)
    assert layout == turned
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.page_bytes = 1


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "sglang"},
        {"dtype": "fp8_e5m2"},
        {"page_bytes": 4097},
        {"terms": {}},
        {"terms": PAGES["terms"] | {"order": "LBHNC"}},
        {"terms": PAGES["terms"] | {"groups": [[0, 1], "16"]}},
        {"terms": PAGES["terms"] | {"more": None}},
    ],
    ids=str,
)
def test_every_difference_between_pages_is_one(change):
    assert PageLayout(**(PAGES | change)) != PageLayout(**PAGES)
    assert PageLayout(**(PAGES | change)).canonical() != PageLayout(**PAGES).canonical()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": ""}, "engine must be a string that is not empty"),
        ({"engine": b"vllm"}, "engine must be a string"),
        ({"dtype": ""}, "dtype must be a string"),
        ({"dtype": None}, "dtype must be a string"),
        ({"page_bytes": 0}, "page_bytes must be an integer from 1"),
        ({"page_bytes": 1.0}, "page_bytes must be an integer"),
        ({"terms": {"a": b"bytes"}}, "terms must be JSON values under names"),
        ({"terms": {"a": {1, 2}}}, "terms must be JSON values"),
    ],
)
def test_impossible_pages_are_refused(change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PageLayout(**(PAGES | change))
