"""Several host pools at once, hit policies, and ranks that hold the same."""

import random

import numpy as np
import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

import torch
from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheFile,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
)
from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool
from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost

from kvstore.connectors.core import EngineStore
from kvstore.connectors.sglang import KVStoreHiCache
from kvstore.connectors.sglang.hits import restorable_prefix
from tests.engines.sglang.pools import mha_pool, mla_pool, page_hashes, read_pages, storage_config, write_pages
from tests.support.blocks import assert_same, blocks, chain
from tests.support.node import Node

PAGES = 8
WINDOW = 3


def mamba_pool():
    info = MambaStateBufferInfo(temporal=torch.zeros(2, 8, 4, 6), conv=(torch.zeros(2, 8, 5, dtype=torch.bfloat16),))
    return MambaPoolHost(info, 4.0, 0, device_capacity=8, pin_memory=False, layout="page_first")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), memory="256MiB") as running:
        yield running


class Rank:
    """A backend with the pools of a hybrid model."""

    def __init__(self, node, pools, **changes):
        self.pools = pools
        self.backend = KVStoreHiCache(storage_config(node.url, **changes), {})
        self.backend.register_mem_pool_host(pools[PoolName.KV])
        for name, pool in pools.items():
            self.backend.register_mem_host_pool_v2(pool, name)
        self.backend.on_host_pools_registered()

    def transfer(self, name, hashes, *, content=None, policy=PoolHitPolicy.ALL_PAGES):
        """Slots for pages, with some content or none that is good."""
        pool = self.pools[name]
        slots = pool.alloc(len(hashes) * pool.page_size)
        write_pages(pool, slots, content or [np.full(pages_bytes(pool), 0xEE, np.uint8)] * len(hashes))
        return PoolTransfer(name, host_indices=slots, keys=hashes, hit_policy=policy)

    def __enter__(self):
        return self

    def __exit__(self, *ending):
        self.backend.close()


def pages_bytes(pool):
    _, sizes = pool.get_page_buffer_meta(torch.arange(pool.page_size))
    return sum(sizes)


def hybrid_pools():
    return {PoolName.KV: mha_pool(), PoolName.SWA: mha_pool(heads=1), PoolName.MAMBA: mamba_pool()}


def test_pools_go_there_and_back_together(node):
    hashes = page_hashes(1, PAGES, 16)
    parts = {PoolName.KV: hashes, PoolName.SWA: hashes[-WINDOW:], PoolName.MAMBA: hashes[-1:]}
    with Rank(node, hybrid_pools()) as here, Rank(node, hybrid_pools()) as there:
        content = {
            name: blocks(chain(f"hybrid {name}", len(keys)), pages_bytes(here.pools[name]))
            for name, keys in parts.items()
        }
        saved = here.backend.batch_set_v2(
            [here.transfer(name, keys, content=content[name]) for name, keys in parts.items()]
        )
        assert saved == {name: [True] * len(keys) for name, keys in parts.items()}
        wanted = [there.transfer(name, keys) for name, keys in parts.items()]
        assert there.backend.batch_get_v2(wanted) == saved
        for transfer in wanted:
            found = read_pages(there.pools[transfer.name], transfer.host_indices)
            for page, expected in zip(found, content[transfer.name], strict=True):
                assert_same(page, expected, transfer.name)


def test_what_is_restorable_ends_where_every_pool_can_go_on(node):
    hashes = page_hashes(2, PAGES, 16)
    with Rank(node, hybrid_pools()) as rank:
        rank.backend.batch_set_v2(
            [
                rank.transfer(PoolName.KV, hashes[:7]),
                rank.transfer(PoolName.SWA, hashes[:6]),
                rank.transfer(PoolName.MAMBA, [hashes[1], hashes[4], hashes[6]]),
            ]
        )
        window = PoolTransfer(PoolName.SWA, keys=hashes[-WINDOW:], hit_policy=PoolHitPolicy.TRAILING_PAGES)
        state = PoolTransfer(PoolName.MAMBA, keys=hashes[-1:], hit_policy=PoolHitPolicy.TRAILING_PAGES)
        found = rank.backend.batch_exists_v2(hashes, [window, state])
        assert found.kv_hit_pages == 5
        assert found.restorable_prefix_pages == [2, 5]
        assert found.extra_pool_hit_pages == {PoolName.KV: 7, PoolName.SWA: 6, PoolName.MAMBA: 7}
        assert rank.backend.batch_exists_v2(hashes).kv_hit_pages == 7
        unknown = PoolTransfer(PoolName.INDEXER, keys=hashes)
        assert rank.backend.batch_exists_v2(hashes, [unknown]).kv_hit_pages == 0


def test_policies_are_those_of_sglang(tmp_path):
    """SGLang's own file backend says the same of any set of pages."""
    oracle = HiCacheFile(storage_config("kv://127.0.0.1:1"), file_path=str(tmp_path))
    drawn = random.Random(4)
    for trial in range(150):
        pages = drawn.randint(1, 7)
        hashes = page_hashes(1000 + trial, pages, 1)
        window = PoolTransfer(
            PoolName.SWA, keys=hashes[-drawn.randint(1, 4) :], hit_policy=PoolHitPolicy.TRAILING_PAGES
        )
        whole = PoolTransfer(PoolName.INDEXER, keys=hashes)
        transfers = drawn.sample([window, whole], drawn.randint(1, 2))
        density = drawn.choice([0.5, 0.9])
        names = [PoolName.KV, *(one.name for one in transfers)]
        there = {name: [drawn.random() < density for _ in hashes] for name in names}
        for name, present in there.items():
            for page_hash, is_there in zip(hashes, present, strict=True):
                if is_there:
                    (tmp_path / f"{oracle._get_component_key(page_hash, name)}.bin").touch()
        expected = oracle.batch_exists_v2(hashes, transfers)
        kv = there[PoolName.KV]
        found = restorable_prefix(kv.index(False) if False in kv else pages, transfers, there)
        assert found.kv_hit_pages == expected.kv_hit_pages
        assert found.restorable_prefix_pages == expected.restorable_prefix_pages
        assert expected.extra_pool_hit_pages.items() <= found.extra_pool_hit_pages.items()


def test_a_pool_of_counts_has_its_bytes_in_others(node):
    hashes = page_hashes(3, PAGES, 16)
    pools = {PoolName.KV: LogicalHostPool(256, 16), PoolName.SWA: mha_pool()}
    with Rank(node, pools) as rank:
        slots = pools[PoolName.KV].alloc(PAGES * 16)
        everything = PoolTransfer(PoolName.SWA, keys=hashes)
        assert rank.backend.batch_exists_v2(hashes, [everything]).kv_hit_pages == 0
        assert rank.backend.batch_set_v1(hashes, slots) == [True] * PAGES
        rank.backend.batch_set_v2([rank.transfer(PoolName.SWA, hashes[:4])])
        assert rank.backend.batch_exists_v2(hashes, [everything]).kv_hit_pages == 4
        assert rank.backend.batch_exists(hashes) == 0
        assert rank.backend.batch_get_v1(hashes, slots) == [True] * PAGES


def test_one_rank_writes_what_all_ranks_hold(node):
    pools = [mla_pool() for _ in range(2)]
    hashes = page_hashes(4, PAGES, 16)
    with (
        Rank(node, {PoolName.KV: pools[0]}, mla=True, world_size=2, rank=0) as first,
        Rank(node, {PoolName.KV: pools[1]}, mla=True, world_size=2, rank=1) as second,
    ):
        content = blocks(chain("mla", PAGES), pages_bytes(pools[0]))
        assert all(second.backend.batch_set_v2([second.transfer(PoolName.KV, hashes)])[PoolName.KV])
        assert first.backend.batch_exists(hashes) == 0
        assert first.backend.batch_set_v2([first.transfer(PoolName.KV, hashes, content=content)]) == {
            PoolName.KV: [True] * PAGES
        }
        for rank in (first, second):
            wanted = rank.transfer(PoolName.KV, hashes)
            assert rank.backend.batch_exists(hashes) == PAGES
            assert all(rank.backend.batch_get_v1(hashes, wanted.host_indices))
            for page, expected in zip(read_pages(rank.pools[PoolName.KV], wanted.host_indices), content, strict=True):
                assert_same(page, expected)


def test_a_rank_of_a_model_that_shares_pages_keeps_its_own_state(node):
    """The state of linear attention is split over ranks even where the KV is not."""
    hashes = page_hashes(5, PAGES, 16)
    ranks = [
        Rank(node, {PoolName.KV: mla_pool(), PoolName.MAMBA: mamba_pool()}, mla=True, world_size=2, rank=number)
        for number in range(2)
    ]
    content = [blocks(chain(f"state {number}", 1), pages_bytes(mamba_pool())) for number in range(2)]
    for rank, state in zip(ranks, content, strict=True):
        rank.backend.batch_set_v2([rank.transfer(PoolName.MAMBA, hashes[-1:], content=state)])
    for rank, state in zip(ranks, content, strict=True):
        wanted = rank.transfer(PoolName.MAMBA, hashes[-1:])
        assert rank.backend.batch_get_v2([wanted]) == {PoolName.MAMBA: [True]}
        assert_same(read_pages(rank.pools[PoolName.MAMBA], wanted.host_indices)[0], state[0])
        rank.backend.close()


def test_ranks_that_split_heads_do_not_meet(node):
    hashes = page_hashes(6, PAGES, 16)
    with (
        Rank(node, {PoolName.KV: mha_pool()}, world_size=2, rank=0) as first,
        Rank(node, {PoolName.KV: mha_pool()}, world_size=2, rank=1) as second,
    ):
        first.backend.batch_set_v2([first.transfer(PoolName.KV, hashes)])
        assert first.backend.batch_exists(hashes) == PAGES
        assert second.backend.batch_exists(hashes) == 0


def test_pages_know_how_deep_they_lie(node, monkeypatch):
    """What was written before a batch comes before it when space runs out."""
    hashes = page_hashes(7, PAGES, 16)
    depths = []
    save = EngineStore.save

    def noting_depth(store, *arguments, **options):
        depths.append(options["first_depth"])
        return save(store, *arguments, **options)

    monkeypatch.setattr(EngineStore, "save", noting_depth)
    with Rank(node, {PoolName.KV: mha_pool()}) as rank:
        tail = rank.transfer(PoolName.KV, hashes[5:])
        rank.backend.batch_set_v2([tail], HiCacheStorageExtraInfo(prefix_keys=hashes[:5]))
        rank.backend.batch_set_v2([tail], HiCacheStorageExtraInfo())
    assert depths == [5, 0]
