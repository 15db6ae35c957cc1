"""What may be a buffer and a key, and what is refused: with which error, and that nothing has changed then."""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kvstore.errors import BlockTooLargeError, BufferSizeError, InvalidArgumentError
from tests.contract.base import ContractBase, counters
from tests.support.blocks import assert_same, block, blocks

SIZE = 8192
LIMIT = 64 << 20
CHANGING = ("blocks", "used_bytes", "reserved_bytes", "puts", "hits", "deleted_blocks")


def _array(dtype: Any, shape: tuple[int, ...]) -> Any:
    """(empty buffer, its bytes)"""
    made = np.zeros(shape, dtype)
    return made, made.reshape(-1).view(np.uint8)


def _torch(dtype: str, shape: tuple[int, ...]) -> Any:
    torch = pytest.importorskip("torch")
    made = torch.zeros(shape, dtype=getattr(torch, dtype))
    return made, made.view(torch.uint8).reshape(-1).numpy()


def _bytearray() -> Any:
    made = bytearray(SIZE)
    return made, np.frombuffer(made, np.uint8)


def _memoryview() -> Any:
    made = bytearray(SIZE)
    return memoryview(made).cast("f"), np.frombuffer(made, np.uint8)


def _window() -> Any:
    made = bytearray(SIZE + 100)
    return memoryview(made)[57 : 57 + SIZE], np.frombuffer(made, np.uint8)[57 : 57 + SIZE]


def _standard_array() -> Any:
    made = array.array("d", bytes(SIZE))
    return made, np.frombuffer(made, np.uint8)


def _c_array() -> Any:
    made = (ctypes.c_uint16 * (SIZE // 2))()
    return made, np.frombuffer(made, np.uint8)


def _mapped_memory() -> Any:
    made = mmap.mmap(-1, SIZE)
    return made, np.frombuffer(made, np.uint8)


KINDS = {
    "bytearray": _bytearray,
    "memoryview of floats": _memoryview,
    "window": _window,
    "array.array": _standard_array,
    "ctypes": _c_array,
    "mmap": _mapped_memory,
    "uint8": lambda: _array(np.uint8, (SIZE,)),
    "float16": lambda: _array(np.float16, (SIZE // 2,)),
    "float64, 3-D": lambda: _array(np.float64, (4, SIZE // 64, 2)),
    "complex64": lambda: _array(np.complex64, (SIZE // 8,)),
    "bool": lambda: _array(np.bool_, (SIZE,)),
    "structured": lambda: _array([("a", "i4"), ("b", "f4")], (SIZE // 8,)),
    "bfloat16": lambda: _array(ml_dtypes.bfloat16, (SIZE // 2,)),
    "bfloat16, 3-D": lambda: _array(ml_dtypes.bfloat16, (2, SIZE // 16, 4)),
    "float8_e4m3fn": lambda: _array(ml_dtypes.float8_e4m3fn, (SIZE,)),
    "torch float32": lambda: _torch("float32", (SIZE // 4,)),
    "torch bfloat16": lambda: _torch("bfloat16", (SIZE // 16, 8)),
    "torch float8": lambda: _torch("float8_e4m3fn", (SIZE,)),
}
# One array for all blocks of a batch of 4: its first axis has their number.
WHOLES = {
    "uint8, 2-D": lambda: _array(np.uint8, (4, SIZE)),
    "float32, 4-D": lambda: _array(np.float32, (4, 2, SIZE // 32, 4)),
    "bfloat16, 2-D": lambda: _array(ml_dtypes.bfloat16, (4, SIZE // 2)),
    "torch float32, 3-D": lambda: _torch("float32", (4, 2, SIZE // 8)),
    "torch bfloat16, 2-D": lambda: _torch("bfloat16", (4, SIZE // 2)),
}
NOT_CONTIGUOUS = {
    "every other byte": lambda: np.zeros(2 * SIZE, np.uint8)[::2],
    "backwards": lambda: np.zeros(SIZE, np.uint8)[::-1],
    "transposed": lambda: np.zeros((64, SIZE // 64), np.uint8).T,
    "a column": lambda: np.zeros((SIZE, 2), np.uint8)[:, 0],
    "bfloat16": lambda: np.zeros(SIZE, ml_dtypes.bfloat16)[::2],
    "memoryview": lambda: memoryview(bytearray(2 * SIZE))[::2],
    "torch": lambda: pytest.importorskip("torch").zeros(SIZE // 4, 2)[:, 0],
    "a piece": lambda: [np.zeros(SIZE - 100, np.uint8), np.zeros(200, np.uint8)[::2]],
}
NO_BUFFERS = {
    "none": None,
    "a number": 7,
    "text": "x" * SIZE,
    "a set": {1, 2},
    "a piece that is none": [bytearray(SIZE - 1), None],
    "pieces of pieces": [[bytearray(SIZE)]],
}
NO_KEYS = {
    "31 bytes": np.zeros((2, 31), np.uint8),
    "64 bytes": np.zeros((2, 64), np.uint8),
    "flat": np.zeros(64, np.uint8),
    "3-D": np.zeros((2, 32, 1), np.uint8),
    "uint16": np.zeros((2, 32), np.uint16),
    "int8": np.zeros((2, 32), np.int8),
    "bool": np.zeros((2, 32), np.bool_),
    "float32": np.zeros((2, 32), np.float32),
    "strided": np.zeros((4, 32), np.uint8)[::2],
    "transposed": np.zeros((32, 2), np.uint8).T,
    "bytes": bytes(64),
    "a list of bytes": [bytes(32), bytes(32)],
    "text": "k" * 64,
    "none": None,
}
VERBS_OF_KEYS = ("match", "exists", "touch", "delete", "borrow")


class Arguments(ContractBase):
    @contextlib.contextmanager
    def refused(self, store: Any, error: type[Exception], match: str | None = None) -> Iterator[None]:
        """Expects the error, and that the store is as before."""
        before = counters(store)
        with pytest.raises(error, match=match):
            yield
        after = counters(store)
        assert {name: after[name] for name in CHANGING} == {name: before[name] for name in CHANGING}

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_buffer_of_any_kind(self, store, keys, kind):
        names = keys(2)
        contents = blocks(names, SIZE)
        source, source_bytes = KINDS[kind]()
        source_bytes[:] = contents[0]
        assert store.put(names, [source, [bytes(contents[1])]]).all_ok
        target, target_bytes = KINDS[kind]()
        plain = bytearray(SIZE)
        assert store.get(names, [target, plain]).all_ok
        assert_same(target_bytes, contents[0], kind)
        assert_same(np.frombuffer(plain, np.uint8), contents[1])
        pieces, piece_bytes = KINDS[kind]()
        assert store.get(names[:1], [(pieces,)]).all_ok
        assert_same(piece_bytes, contents[0], kind)

    @pytest.mark.parametrize("kind", WHOLES)
    def test_one_array_for_all_blocks(self, store, keys, kind):
        names = keys(4)
        contents = np.stack(blocks(names, SIZE))
        source, source_bytes = WHOLES[kind]()
        source_bytes[:] = contents.reshape(-1)
        assert store.put(names, source).all_ok
        target, target_bytes = WHOLES[kind]()
        assert store.get(names, target).all_ok
        assert_same(target_bytes, contents)

    def test_bytes_can_be_put(self, store, keys):
        names = keys(2)
        contents = blocks(names, SIZE)
        read_only = contents[1].copy()
        read_only.flags.writeable = False
        assert store.put(names, (contents[0].tobytes(), read_only)).all_ok
        buffers = np.zeros((2, SIZE), np.uint8)
        assert store.get(names, buffers).all_ok
        assert_same(buffers, np.stack(contents))

    @pytest.mark.parametrize("verb", ["put", "get"])
    @pytest.mark.parametrize("kind", NOT_CONTIGUOUS)
    def test_not_contiguous(self, store, keys, verb, kind):
        names = keys(2)
        with self.refused(store, InvalidArgumentError, "contiguous"):
            getattr(store, verb)(names, [bytearray(SIZE), NOT_CONTIGUOUS[kind]()])
        assert not store.exists(names).any()

    def test_one_array_that_is_not_contiguous(self, store, keys):
        names = keys(4)
        for whole in (np.zeros((8, SIZE), np.uint8)[::2], np.zeros((4, 2 * SIZE), np.uint8)[:, ::2]):
            with self.refused(store, InvalidArgumentError, "contiguous"):
                store.put(names, whole)

    @pytest.mark.parametrize("verb", ["put", "get"])
    @pytest.mark.parametrize("kind", NO_BUFFERS)
    def test_no_buffer(self, store, keys, verb, kind):
        names = keys(2)
        with self.refused(store, InvalidArgumentError):
            getattr(store, verb)(names, [bytearray(SIZE), NO_BUFFERS[kind]])
        with self.refused(store, InvalidArgumentError):
            getattr(store, verb)(names, NO_BUFFERS[kind])
        assert not store.exists(names).any()

    @pytest.mark.parametrize("verb", ["put", "get"])
    @pytest.mark.parametrize("given", [0, 1, 3])
    def test_wrong_counts(self, store, keys, verb, given):
        names = keys(2)
        for buffers in ([bytearray(SIZE) for _ in range(given)], np.zeros((given, SIZE), np.uint8)):
            with self.refused(store, InvalidArgumentError):
                getattr(store, verb)(names, buffers)
        assert not store.exists(names).any()

    @pytest.mark.parametrize("verb", ["put", "get"])
    @pytest.mark.parametrize("empty", [b"", bytearray(), [], [bytearray(), bytearray()], np.zeros(0, np.float32)])
    def test_empty(self, store, keys, verb, empty):
        names = keys(2)
        with self.refused(store, BufferSizeError, "block 1"):
            getattr(store, verb)(names, [bytearray(SIZE), empty])
        assert not store.exists(names).any()

    @pytest.mark.parametrize("verb", ["put", "get"])
    def test_over_the_limit(self, store, keys, verb):
        names = keys(2)
        for large in (np.empty(LIMIT + 1, np.uint8), [np.empty(LIMIT, np.uint8), bytearray(1)]):
            with self.refused(store, BlockTooLargeError, f"block 1 of the batch has {LIMIT + 1} bytes.*{LIMIT}"):
                getattr(store, verb)(names, [bytearray(SIZE), large])
        with self.refused(store, BlockTooLargeError):
            getattr(store, verb)(names, np.empty((2, LIMIT + 1), np.uint8))
        assert not store.exists(names).any()

    @pytest.mark.parametrize("kind", ["bytes", "array", "bfloat16", "memoryview", "piece"])
    def test_reading_into_read_only_memory(self, store, keys, kind):
        names = keys(2)
        contents = blocks(names, SIZE)
        assert store.put(names, contents).all_ok
        array, bfloat = np.zeros(SIZE, np.uint8), np.zeros(SIZE // 2, ml_dtypes.bfloat16)
        array.flags.writeable = bfloat.flags.writeable = False
        made = bytes(SIZE)
        read_only = {
            "bytes": made,
            "array": array,
            "bfloat16": bfloat,
            "memoryview": memoryview(bytearray(SIZE)).toreadonly(),
            "piece": [bytearray(SIZE - 10), made[:10]],
        }[kind]
        with self.refused(store, InvalidArgumentError, "read-only"):
            store.get(names, [bytearray(SIZE), read_only])
        assert not array.any()
        assert made == bytes(SIZE)

    def test_a_buffer_of_another_size_than_the_block(self, store, keys):
        names = keys(3)
        contents = blocks(names, SIZE)
        assert store.put(names, contents).all_ok
        for wrong in (SIZE - 1, SIZE + 1, 1, 2 * SIZE):
            buffers = [np.zeros(SIZE, np.uint8), np.full(wrong, 0xEE, np.uint8), np.zeros(SIZE, np.uint8)]
            with pytest.raises(BufferSizeError, match=f"block 1 .*{bytes(names[1]).hex()}"):
                store.get(names, buffers)
            assert (buffers[1] == 0xEE).all()
        assert store.match(names) == 3

    @pytest.mark.parametrize("kind", NO_KEYS)
    def test_no_keys_that_can_be_used(self, store, kind):
        wrong = NO_KEYS[kind]
        for verb in VERBS_OF_KEYS:
            with self.refused(store, InvalidArgumentError), contextlib.ExitStack() as opened:
                result = getattr(store, verb)(wrong)
                if verb == "borrow":
                    opened.enter_context(result)
        with self.refused(store, InvalidArgumentError):
            store.put(wrong, [bytes(SIZE), bytes(SIZE)])
        with self.refused(store, InvalidArgumentError):
            store.pin(wrong, owner="operator", ttl_s=1)
        with self.refused(store, InvalidArgumentError):
            store.get(wrong, [bytearray(SIZE), bytearray(SIZE)])

    @pytest.mark.parametrize(
        "option", [{"timeout_ms": 0}, {"timeout_ms": "1"}, {"first_depth": -1}, {"wait_ms": -1}, {"wait_ms": "1"}]
    )
    def test_options(self, store, keys, option):
        with self.refused(store, InvalidArgumentError):
            store.get(keys(1), [bytearray(SIZE)], **option)

    @pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
    def test_times_to_live(self, store, keys, ttl_s):
        names = keys(1)
        with self.refused(store, InvalidArgumentError, "ttl_s"):
            store.put(names, [block(names[0], SIZE)], ttl_s=ttl_s)
        with self.refused(store, InvalidArgumentError, "ttl_s"):
            store.touch(names, ttl_s=ttl_s)
        assert not store.exists(names).any()
