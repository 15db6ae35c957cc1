"""What was put is what is got: every size, every number of keys, in one piece or many."""

from __future__ import annotations

import numpy as np
import pytest

from tests.contract.base import ContractBase
from tests.support.blocks import assert_same, block, blocks, chain, split

KIB, MIB = 1 << 10, 1 << 20
SIZES = (1, 4 * KIB - 1, 4 * KIB, 64 * KIB, MIB + 3, 8 * MIB)
COUNTS = (1, 8, 33, 1500)
# Together they stay far below the capacity of the store, and the last count is more than one frame of 1,024 keys.
BATCHES = [(size, count) for size in SIZES for count in COUNTS if size * count <= 24 * MIB or count == 1]
# The lanes cut blocks into chunks of 65,000 (UCX) and 131,072 bytes (staging).
CHUNKS = (65_000, 131_072)


class RoundTrips(ContractBase):
    @pytest.mark.parametrize(("size", "count"), BATCHES)
    def test_put_and_get(self, store, keys, size, count):
        names = keys(count)
        contents = blocks(names, size)
        buffers = [np.full(size, 0xEE, np.uint8) for _ in range(count)]
        put = store.put(names, contents)
        assert put.all_ok, put
        assert store.match(names) == count
        got = store.get(names, buffers)
        assert got.all_ok, got
        for index, (found, expected) in enumerate(zip(buffers, contents, strict=True)):
            assert_same(found, expected, f"block {index}")

    def test_sizes_may_differ_within_a_batch(self, store, keys):
        sizes = [1, 70_000, 4096, 3, 131_073, 65_000, 4097, 9]
        names = keys(len(sizes))
        contents = [block(name, size) for name, size in zip(names, sizes, strict=True)]
        buffers = [np.zeros(size, np.uint8) for size in sizes]
        assert store.put(names, contents).all_ok
        assert store.get(names, buffers).all_ok
        for found, expected in zip(buffers, contents, strict=True):
            assert_same(found, expected)

    def test_the_neighbourhood_of_a_chunk(self, store, keys):
        sizes = [chunk * times + off for chunk in CHUNKS for times in (1, 2) for off in (-1, 0, 1)]
        names = keys(len(sizes))
        contents = [block(name, size) for name, size in zip(names, sizes, strict=True)]
        buffers = [np.zeros(size, np.uint8) for size in sizes]
        assert store.put(names, contents).all_ok
        assert store.get(names, buffers).all_ok
        for found, expected in zip(buffers, contents, strict=True):
            assert_same(found, expected)

    @pytest.mark.parametrize(
        "cuts",
        [
            pytest.param([1] * 50, id="bytes"),
            pytest.param([7] * 3000, id="many"),
            pytest.param([chunk - 1 for chunk in CHUNKS], id="before a chunk ends"),
            pytest.param([chunk + 1 for chunk in CHUNKS], id="after a chunk ends"),
            pytest.param([1, 3, 65_000, 2, 131_072, 5, 64 * KIB], id="odd"),
            pytest.param([150_000, 150_000], id="across chunks"),
        ],
    )
    def test_scatter_and_gather(self, store, keys, cuts):
        names = keys(3)
        contents = blocks(names, 300_007)
        assert store.put(names, [split(whole, cuts) for whole in contents]).all_ok
        wholes = [np.zeros_like(whole) for whole in contents]
        assert store.get(names, wholes).all_ok
        scattered = [np.zeros_like(whole) for whole in contents]
        assert store.get(names, [split(whole, cuts[::-1]) for whole in scattered]).all_ok
        for whole, pieces, expected in zip(wholes, scattered, contents, strict=True):
            assert_same(whole, expected, "gathered by put")
            assert_same(pieces, expected, "scattered by get")

    @pytest.mark.parametrize("seed", range(4))
    def test_scatter_and_gather_at_random(self, store, keys, seed):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 400_000, 8)
        names = keys(8)
        contents = [block(name, int(size)) for name, size in zip(names, sizes, strict=True)]
        pieces = [split(whole, random.integers(1, 90_000, random.integers(1, 30))) for whole in contents]
        assert store.put(names, pieces).all_ok
        buffers = [np.zeros_like(whole) for whole in contents]
        scattered = [split(whole, random.integers(1, 90_000, random.integers(1, 30))) for whole in buffers]
        assert store.get(names, scattered).all_ok
        for found, expected in zip(buffers, contents, strict=True):
            assert_same(found, expected, f"seed {seed}")

    def test_pieces_apart_in_memory_leave_what_is_between_them(self, store, keys):
        """As layers of a cache lie: one block is a row of every layer."""
        names = keys(4)
        layers = np.full((6, 8, 5000), 0xEE, np.uint8)
        contents = blocks(names, 6 * 5000)
        assert store.put(names, contents).all_ok
        assert store.get(names, [[layers[layer, 2 * at] for layer in range(6)] for at in range(4)]).all_ok
        for at, expected in enumerate(contents):
            assert_same(layers[:, 2 * at].copy(), expected)
        assert (layers[:, 1::2] == 0xEE).all()

    def test_no_keys(self, store):
        none = chain("", 0)
        buffers = np.zeros((0, 4096), np.uint8)
        assert store.match(none) == 0
        for result in (store.put(none, []), store.put(none, buffers), store.get(none, []), store.get(none, buffers)):
            assert result.status.shape == result.cause.shape == (0,)
            assert result.all_ok
        for present in (store.exists(none), store.touch(none), store.delete(none)):
            assert present.shape == (0,)
        with store.borrow(none) as views:
            assert list(views) == []
