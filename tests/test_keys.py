"""Names of blocks: the frozen format, what separates keys, and what is refused."""

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import FingerprintMismatchError, InvalidArgumentError
from kvstore.keys import Namespace
from kvstore.layout import KVLayout, PageLayout

GOLDEN = json.loads((Path(__file__).parent / "golden" / "keys.json").read_text())
LAYOUT = KVLayout(layers=4, kv_heads=2, head_size=32, dtype="bfloat16")
SPACE = Namespace(model="m", revision="r", layout=LAYOUT, block_size=4)
TOKENS = list(range(100, 113))  # three full blocks of four, and one token more

token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=40)
texts = st.text(min_size=1, max_size=8)

# One change of each thing that must agree for the bytes to mean the same.
DIFFERENCES = {
    "model": {"model": "m2"},
    "revision": {"revision": "r2"},
    "block_size": {"block_size": 2},
    "rank": {"rank": 1},
    "world_size": {"world_size": 4},
    "tenant_secret": {"tenant_secret": b"s"},
    "layout.layers": {"layout": dataclasses.replace(LAYOUT, layers=5)},
    "layout.kv_heads": {"layout": dataclasses.replace(LAYOUT, kv_heads=1)},
    "layout.head_size": {"layout": dataclasses.replace(LAYOUT, head_size=64)},
    "layout.dtype": {"layout": dataclasses.replace(LAYOUT, dtype="float16")},
    "layout.order": {"layout": dataclasses.replace(LAYOUT, order="LNPHD")},
}
TWO_RANKS = dataclasses.replace(SPACE, world_size=2)


def rows(keys):
    assert keys.dtype == np.uint8
    assert keys.shape[1:] == (32,)
    assert keys.flags.c_contiguous
    return [bytes(row) for row in keys]


def reference(space, hashes):
    """The format as documented in kvstore.keys, written again from its words: (fingerprint, keys) in hexadecimal."""

    def field(value):
        return struct.pack("<I", len(value)) + value

    numbers = [struct.pack("<Q", space[name]) for name in ("block_size", "rank", "world_size")]
    names = [space[name].encode() for name in ("model", "revision")]
    parts = [b"kvstore-fingerprint-v1", *names, space["layout"].encode(), *numbers, space["engine_hash"].encode()]
    fingerprint = blake3(b"".join(field(part) for part in parts)).digest()
    secret = bytes.fromhex(space["tenant_secret"])
    tenant_key = blake3(secret, derive_key_context="kvstore 2026 tenant key v1").digest()
    return fingerprint.hex(), [blake3(fingerprint + value, key=tenant_key).hexdigest() for value in hashes]


def reference_chain(tokens, block_size, salt):
    seed = struct.pack("<I", 16) + b"kvstore-chain-v1" + struct.pack("<I", len(salt)) + salt
    hashes = [blake3(seed).digest()]
    for start in range(0, len(tokens) // block_size * block_size, block_size):
        block = struct.pack(f"<{block_size}I", *tokens[start : start + block_size])
        hashes.append(blake3(hashes[-1] + block).digest())
    return hashes[1:]


def reference_salted(hashes, salt):
    prefix = struct.pack("<I", 22) + b"kvstore-engine-salt-v1" + struct.pack("<I", len(salt)) + salt
    return [blake3(prefix + value).digest() for value in hashes] if salt else hashes


def golden_layout(text):
    if not text.startswith("pagelayout/1 "):
        return None
    engine, dtype, page_bytes, *terms = json.loads(text.removeprefix("pagelayout/1 "))
    values = {name: json.loads(value) for name, value in terms}
    return PageLayout(engine=engine, dtype=dtype, page_bytes=page_bytes, terms=values)


def golden_namespace(case):
    words = case["namespace"] | {"tenant_secret": bytes.fromhex(case["namespace"]["tenant_secret"])}
    if pages := golden_layout(words["layout"]):
        return Namespace(**(words | {"layout": pages}))
    fields = dict(word.split("=") for word in words["layout"].split(" ")[1:])
    rope = None if fields["rope"] == "-" else int(fields["rope"])
    sizes = {name: int(fields[name]) for name in ("layers", "kv_heads", "head_size")}
    layout = KVLayout(**sizes, dtype=fields["dtype"], order=fields["order"], rope_size=rope)
    return Namespace(**(words | {"layout": layout}))


def test_the_hash_is_blake3():
    # The digest of the empty input, as the algorithm's authors publish it.
    assert blake3(b"").hexdigest() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("case", GOLDEN["chain"], ids=lambda case: case["name"])
def test_golden_chains(case):
    space, salt = golden_namespace(case), bytes.fromhex(case["salt"])
    hashes = reference_chain(case["token_ids"], space.block_size, salt)
    assert reference(case["namespace"], hashes) == (case["fingerprint"], case["keys"])
    assert space.fingerprint.hex() == case["fingerprint"]
    assert [key.hex() for key in rows(space.chain(case["token_ids"], salt=salt))] == case["keys"]


@pytest.mark.parametrize("case", GOLDEN["engine_hashes"], ids=lambda case: case["name"])
def test_golden_engine_hashes(case):
    salt = bytes.fromhex(case["salt"])
    hashes = [h.to_bytes(8, "little") if isinstance(h, int) else bytes.fromhex(h) for h in case["engine_hashes"]]
    salted = reference_salted(hashes, salt)
    assert reference(case["namespace"], salted) == (case["fingerprint"], case["keys"])
    assert [key.hex() for key in rows(golden_namespace(case).keys(case["engine_hashes"], salt=salt))] == case["keys"]


def test_one_key_for_each_full_block():
    assert SPACE.chain(TOKENS).shape == (3, 32)
    assert SPACE.chain(TOKENS[:3]).shape == (0, 32)
    assert SPACE.chain([]).shape == (0, 32)
    assert SPACE.keys([]).shape == (0, 32)
    assert SPACE.chain(TOKENS).flags.writeable
    assert SPACE.block_bytes == 4 * LAYOUT.bytes_per_token


@given(token_lists, token_lists, st.binary(max_size=8))
def test_the_chain_of_a_prefix_is_a_prefix_of_the_chain(a, b, salt):
    whole, prefix = rows(SPACE.chain(a + b, salt=salt)), rows(SPACE.chain(a, salt=salt))
    assert len(whole) == (len(a) + len(b)) // SPACE.block_size
    assert whole[: len(prefix)] == prefix


@given(st.lists(st.integers(0, 2**32 - 1), min_size=12, max_size=12), st.integers(0, 11), st.integers(1, 2**32 - 1))
def test_a_changed_token_changes_its_block_and_all_after_it(tokens, position, difference):
    changed = list(tokens)
    changed[position] = (changed[position] + difference) % 2**32
    same = [a == b for a, b in zip(rows(SPACE.chain(tokens)), rows(SPACE.chain(changed)), strict=True)]
    assert same == [block < position // 4 for block in range(3)]


@given(token_lists.filter(lambda tokens: len(tokens) >= 4), st.binary(max_size=8), st.binary(max_size=8))
def test_salts_share_keys_only_when_equal(tokens, a, b):
    shared = set(rows(SPACE.chain(tokens, salt=a))) & set(rows(SPACE.chain(tokens, salt=b)))
    assert bool(shared) == (a == b)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_changes_every_key(name):
    other = dataclasses.replace(TWO_RANKS, **DIFFERENCES[name])
    assert not set(rows(TWO_RANKS.chain(TOKENS))) & set(rows(other.chain(TOKENS)))
    assert not set(rows(TWO_RANKS.keys([1, 2, 3]))) & set(rows(other.keys([1, 2, 3])))
    assert (other.fingerprint == TWO_RANKS.fingerprint) == (name == "tenant_secret")


def test_the_engine_hash_changes_every_key():
    other = dataclasses.replace(SPACE, engine_hash="vllm-sha256-cbor")
    assert not set(rows(SPACE.keys([1, 2, 3]))) & set(rows(other.keys([1, 2, 3])))


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_text_never_moves_from_one_field_to_the_next(a, b):
    def fingerprint(model, revision, engine_hash):
        return dataclasses.replace(SPACE, model=model, revision=revision, engine_hash=engine_hash).fingerprint

    assert (fingerprint(*a) == fingerprint(*b)) == (a == b)
    joined = "".join(a)
    assert fingerprint(joined[:1], joined[1:], "x") != fingerprint(joined[:2], joined[2:], "x")


def test_a_salt_is_no_token_and_a_token_no_salt():
    salted = rows(SPACE.chain(TOKENS[4:], salt=struct.pack("<4I", *TOKENS[:4])))
    assert not set(salted) & set(rows(SPACE.chain(TOKENS)))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64, np.uint16, ">u4"])
def test_tokens_of_any_integer_type_and_stride_give_the_same_keys(dtype):
    expected = rows(SPACE.chain(TOKENS))
    assert rows(SPACE.chain(np.array(TOKENS, dtype=dtype))) == expected
    assert rows(SPACE.chain(np.array([[token, 0] for token in TOKENS], dtype=dtype)[:, 0])) == expected
    assert rows(SPACE.chain(tuple(TOKENS))) == expected


def test_tokens_of_a_tensor_give_the_same_keys():
    torch = pytest.importorskip("torch")
    assert rows(SPACE.chain(torch.tensor(TOKENS))) == rows(SPACE.chain(TOKENS))
    with pytest.raises(InvalidArgumentError, match="cannot be read as an array"):
        SPACE.chain(torch.ones(4, dtype=torch.bfloat16))


def test_the_largest_token_id_is_accepted():
    assert SPACE.chain([0, 2**32 - 1, 0, 2**32 - 1]).shape == (1, 32)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, -1, 2], "must be from 0 to .*, not -1"),
        ([1, 2**32], "not 4294967296"),
        ([1, 2**70], "must be integers"),
        ([1.0, 2.0], "must be integers .* not float64"),
        ([True, False], "must be integers .* not bool"),
        (["a", "b"], "must be integers"),
        ([None], "must be integers .* not object"),
        ([[1, 2], [3]], "cannot be read as an array"),
        (np.zeros((2, 4), dtype=np.int64), r"one dimension, not the shape \(2, 4\)"),
        (7, "one dimension"),
        ("1234", "one dimension"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SPACE.chain(tokens)


@pytest.mark.parametrize("salt", ["text", None, 5, b"x" * 4097])
def test_bad_salts_are_refused_and_never_shown(salt):
    with pytest.raises(InvalidArgumentError, match="salt must be bytes, at most 4096 of them$"):
        SPACE.chain(TOKENS, salt=salt)


def test_our_chain_is_refused_under_the_name_of_another_hash():
    space = dataclasses.replace(SPACE, engine_hash="vllm-sha256-cbor")
    with pytest.raises(InvalidArgumentError, match=r"'vllm-sha256-cbor'; pass them to keys\(\)"):
        space.chain(TOKENS)


def test_engine_hashes_of_every_form_agree():
    as_bytes = [bytes(range(start, start + 8)) for start in (0, 8, 16)]
    expected = rows(SPACE.keys(as_bytes))
    assert len(set(expected)) == 3
    assert rows(SPACE.keys([value.hex() for value in as_bytes])) == expected
    assert rows(SPACE.keys([int.from_bytes(value, "little") for value in as_bytes])) == expected
    assert rows(SPACE.keys(np.array([int.from_bytes(value, "little") for value in as_bytes], np.uint64))) == expected
    assert rows(SPACE.keys(memoryview(value) for value in as_bytes)) == expected


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=64))
def test_engine_hashes_share_keys_only_when_equal(a, b):
    one, other = rows(SPACE.keys([a, b]))
    assert (one == other) == (a == b)


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=8), st.binary(max_size=8))
def test_salts_of_engine_hashes_share_keys_only_when_equal(value, a, b):
    assert (rows(SPACE.keys([value], salt=a)) == rows(SPACE.keys([value], salt=b))) == (a == b)


@given(st.binary(min_size=1, max_size=8), st.binary(min_size=1, max_size=8))
def test_salt_never_moves_into_an_engine_hash(value, salt):
    keys = {rows(SPACE.keys([value], salt=salt))[0], rows(SPACE.keys([salt + value]))[0]}
    keys |= {rows(SPACE.keys([salt[1:] + value], salt=salt[:1]))[0]} if len(salt) > 1 else set()
    assert len(keys) == (3 if len(salt) > 1 else 2)


def test_salts_are_for_engine_hashes_of_every_form():
    value = bytes(range(8))
    expected = rows(SPACE.keys([value], salt=b"tenant"))
    assert rows(SPACE.keys([value.hex()], salt=b"tenant")) == expected
    assert rows(SPACE.keys([int.from_bytes(value, "little")], salt=b"tenant")) == expected
    assert SPACE.keys([], salt=b"tenant").shape == (0, 32)


@pytest.mark.parametrize("salt", ["text", 5, b"x" * 4097])
def test_bad_salts_of_engine_hashes_are_refused(salt):
    with pytest.raises(InvalidArgumentError, match="salt must be bytes, at most 4096 of them$"):
        SPACE.keys([b"fine"], salt=salt)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "engine hash 1 has 0 bytes"),
        (b"x" * 65, "engine hash 1 has 65 bytes; 1 to 64"),
        ("", "has 0 bytes"),
        ("xyz", "engine hash 1 is not hexadecimal: 'xyz'"),
        (-1, "engine hash 1 must be bytes, a hexadecimal string or an unsigned 64-bit integer, not -1"),
        (2**64, "unsigned 64-bit integer"),
        (1.0, "unsigned 64-bit integer"),
        (True, "unsigned 64-bit integer"),
        (None, "unsigned 64-bit integer"),
    ],
)
def test_bad_engine_hashes_are_refused(value, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SPACE.keys([b"fine", value])


@pytest.mark.parametrize("single", [b"hash", "abcd", bytearray(4)])
def test_a_single_engine_hash_is_not_a_sequence_of_them(single):
    with pytest.raises(InvalidArgumentError, match="not a single one"):
        SPACE.keys(single)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ""}, "model must be a string of 1 to 4096 UTF-8 bytes"),
        ({"model": b"m"}, "model must be"),
        ({"model": "\ud800"}, "model must be"),
        ({"revision": ""}, "revision must be"),
        ({"revision": "x" * 4097}, "revision must be"),
        ({"engine_hash": None}, "engine_hash must be"),
        ({"layout": "LPHND"}, "layout must be a KVLayout or a PageLayout, not str"),
        ({"block_size": 0}, "block_size must be an integer from 1"),
        ({"block_size": 16.0}, "block_size must be"),
        ({"world_size": 0}, "world_size must be"),
        ({"rank": 1}, "rank must be an integer from 0 to 0, not 1"),
        ({"rank": -1}, "rank must be"),
        ({"tenant_secret": "secret"}, "tenant_secret must be bytes, not str"),
        *(({"ttl_s": ttl_s}, "ttl_s must be") for ttl_s in (0, -1, float("nan"), float("inf"), "60")),
    ],
)
def test_bad_namespaces_are_refused(change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        dataclasses.replace(SPACE, **change)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_mismatch_names_the_fields_that_differ(name):
    with pytest.raises(FingerprintMismatchError) as caught:
        TWO_RANKS.require_match(dataclasses.replace(TWO_RANKS, **DIFFERENCES[name]))
    named = str(caught.value).partition("they differ in ")[2]
    assert named.startswith(name)
    assert not any(other in named for other in DIFFERENCES if other != name)


def test_pages_of_an_engine_are_named_apart_from_tensors_and_from_other_pages():
    pages = PageLayout(engine="vllm", dtype="bfloat16", page_bytes=SPACE.block_bytes, terms={"order": "LBNHC"})
    spaces = [
        SPACE,
        dataclasses.replace(SPACE, layout=pages),
        dataclasses.replace(
            SPACE, layout=PageLayout(engine="vllm", dtype="bfloat16", page_bytes=SPACE.block_bytes, terms={})
        ),
    ]
    assert len({space.fingerprint for space in spaces}) == 3
    assert spaces[1].block_bytes == SPACE.block_bytes
    with pytest.raises(FingerprintMismatchError, match=r"differ in layout \(KVLayout"):
        SPACE.require_match(spaces[1])
    with pytest.raises(FingerprintMismatchError, match=r"differ in layout.terms \("):
        spaces[2].require_match(spaces[1])


def test_namespaces_that_agree_match():
    SPACE.require_match(dataclasses.replace(SPACE))
    with pytest.raises(FingerprintMismatchError, match=r"block_size \(4 here, 16 there\), layout.dtype \('bfloat16'"):
        SPACE.require_match(
            dataclasses.replace(SPACE, block_size=16, layout=dataclasses.replace(LAYOUT, dtype="float32"))
        )


def test_a_time_to_live_is_no_part_of_what_blocks_mean():
    brief = dataclasses.replace(SPACE, ttl_s=60)
    assert brief.ttl_s == 60
    assert brief == SPACE
    assert hash(brief) == hash(SPACE)
    assert brief.fingerprint == SPACE.fingerprint
    assert (brief.chain(TOKENS) == SPACE.chain(TOKENS)).all()
    SPACE.require_match(brief)
    with pytest.raises(FingerprintMismatchError) as caught:
        brief.require_match(dataclasses.replace(SPACE, block_size=16))
    assert "ttl_s" not in str(caught.value)


def test_the_tenant_secret_is_never_shown():
    space = dataclasses.replace(SPACE, tenant_secret=b"hunter2")
    space.chain(TOKENS)
    assert "hunter2" not in repr(space)
    with pytest.raises(FingerprintMismatchError) as caught:
        space.require_match(SPACE)
    assert "hunter2" not in str(caught.value)


def test_namespaces_are_values():
    twin = dataclasses.replace(SPACE)
    SPACE.chain(TOKENS)
    assert twin == SPACE
    assert hash(twin) == hash(SPACE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPACE.model = "other"
