"""Pages of SGLang's host pools: where they lie, what they mean, and that the bytes come back."""

import zlib

import numpy as np
import pytest

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported

pytest.importorskip("sglang")

import torch

from kvstore.connectors.sglang import KVStoreHiCache
from kvstore.connectors.sglang.host_pages import CopiedPages, MappedPages, open_pages
from kvstore.errors import ConfigError, InvalidArgumentError, UnsupportedError
from tests.engines.sglang.pools import mha_pool, mla_pool, page_hashes, read_pages, storage_config, write_pages
from tests.support.blocks import assert_same, blocks, chain
from tests.support.node import Node

PAGES = 6
MHA_LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head")
MLA_LAYOUTS = ("layer_first", "page_first", "page_first_direct")
POOLS = {
    **{f"mha {layout}": lambda layout=layout, **options: mha_pool(layout=layout, **options) for layout in MHA_LAYOUTS},
    **{f"mla {layout}": lambda layout=layout, **options: mla_pool(layout=layout, **options) for layout in MLA_LAYOUTS},
}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with Node(tmp_path_factory.mktemp("node"), memory="256MiB") as running:
        yield running


@pytest.fixture(params=POOLS)
def make_pool(request):
    return POOLS[request.param]


@pytest.fixture
def open_backend(node):
    """Opens backends for pools, and closes them."""
    opened = []

    def open_backend(pool, **changes):
        backend = KVStoreHiCache(storage_config(node.url, **changes), {})
        backend.register_mem_pool_host(pool)
        backend.on_host_pools_registered()
        opened.append(backend)
        return backend

    yield open_backend
    for backend in opened:
        backend.close()


def fill(pool, name):
    """Slots of some pages, not in their order, and what was written there."""
    slots = pool.alloc(PAGES * pool.page_size).view(PAGES, -1)[[3, 0, 5, 1, 2, 4]].reshape(-1)
    content = blocks(chain(name, PAGES), pool.size_per_token * pool.page_size)
    write_pages(pool, slots, content)
    return slots, content


def empty(pool):
    slots = pool.alloc(PAGES * pool.page_size)
    write_pages(pool, slots, [np.full(pool.size_per_token * pool.page_size, 0xEE, np.uint8)] * PAGES)
    return slots


def assert_pages(pool, slots, content):
    for index, (found, expected) in enumerate(zip(read_pages(pool, slots), content, strict=True)):
        assert_same(found, expected, f"page {index}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_pages_go_there_and_back(make_pool, open_backend, dtype, request):
    mla = "mla" in request.node.callspec.id
    here, there = make_pool(dtype=dtype), make_pool(dtype=dtype)
    slots, content = fill(here, request.node.name)
    hashes = page_hashes(zlib.crc32(request.node.name.encode()), PAGES, here.page_size)
    writer, reader = open_backend(here, mla=mla), open_backend(there, mla=mla)
    assert writer.batch_set_v1(hashes, slots) == [True] * PAGES
    assert reader.batch_exists(hashes) == PAGES
    into = empty(there)
    assert reader.batch_get_v1(hashes, into) == [True] * PAGES
    assert_pages(there, into, content)
    assert_pages(here, slots, content)


def test_no_byte_is_copied(make_pool):
    """A view writes through to the pool, and its memory stays when the pool goes."""
    pool = make_pool()
    pages = MappedPages(pool)
    slots, content = fill(pool, "views")
    views = pages.to_load(slots)
    for view, expected in zip(views, content, strict=True):
        assert_same(np.concatenate(view), expected)
        for piece in view:
            piece[:] = 7
    assert_pages(pool, slots, [np.full_like(page, 7) for page in content])
    del pool, pages
    assert all((piece == 7).all() for view in views for piece in view)


def test_a_pool_that_cannot_say_where_pages_lie_copies_them(open_backend, monkeypatch):
    here, there = mha_pool(layout="page_first"), mha_pool(layout="page_first")
    slots, content = fill(here, "copied")
    into = empty(there)
    with monkeypatch.context() as patched:
        patched.setattr(type(here), "get_page_buffer_meta", lambda pool, indices: (_ for _ in ()).throw(ValueError()))
        assert isinstance(open_pages(here, mapped=True), CopiedPages)
        hashes = page_hashes(1, PAGES, here.page_size)
        assert open_backend(here).batch_set_v1(hashes, slots) == [True] * PAGES
        assert open_backend(there).batch_get_v1(hashes, into) == [True] * PAGES
    assert_pages(there, into, content)


def test_copied_pages_are_left_alone_where_nothing_was_loaded(open_backend):
    pool = mha_pool()
    slots, content = fill(pool, "kept")
    backend = open_backend(pool, interface_v1=0)
    assert backend.batch_get_v1(page_hashes(2, PAGES, pool.page_size), slots) == [False] * PAGES
    assert_pages(pool, slots, content)


def test_a_pool_without_pages_is_refused(monkeypatch):
    pool = mha_pool()
    for name in ("get_page_buffer_meta", "get_dummy_flat_data_page"):
        monkeypatch.setattr(pool, name, lambda *arguments: (_ for _ in ()).throw(NotImplementedError("none")))
    with pytest.raises(UnsupportedError, match="no pages for storage"):
        open_pages(pool, mapped=True)


@pytest.mark.parametrize("pool_changes", [{"pages": 8}, {"pages": 32}])
def test_pools_of_other_sizes_share_pages(open_backend, pool_changes):
    here, there = mha_pool(), mha_pool(**pool_changes)
    slots, content = fill(here, "sizes")
    hashes = page_hashes(3, PAGES, here.page_size)
    open_backend(here).batch_set_v1(hashes, slots)
    into = empty(there)
    assert open_backend(there).batch_get_v1(hashes, into) == [True] * PAGES
    assert_pages(there, into, content)


@pytest.mark.parametrize(
    ("pool_changes", "changes"),
    [
        ({"layout": "page_first"}, {}),
        ({"layout": "page_head"}, {}),
        ({"dtype": torch.float16}, {}),
        ({"heads": 4, "head_size": 16}, {}),
        ({}, {"interface_v1": 0}),
        ({}, {"model": "another"}),
        ({}, {"world_size": 2}),
        ({}, {"pp_rank": 1, "pp_size": 2}),
        ({}, {"attn_cp_rank": 1, "attn_cp_size": 2}),
        ({}, {"settings": {"revision": "2f1c"}}),
    ],
)
def test_pages_that_mean_something_else_are_misses(open_backend, pool_changes, changes):
    here, there = mha_pool(dtype=torch.bfloat16), mha_pool(**{"dtype": torch.bfloat16, **pool_changes})
    assert here.size_per_token == there.size_per_token
    slots, _ = fill(here, "meanings")
    hashes = page_hashes(4, PAGES, here.page_size)
    backend, other = open_backend(here), open_backend(there, **changes)
    assert backend.batch_set_v1(hashes, slots) == [True] * PAGES
    assert backend.batch_exists(hashes) == PAGES
    assert other.batch_exists(hashes) == 0
    assert other.batch_get_v1(hashes, empty(there)) == [False] * PAGES


def test_tenants_do_not_meet(open_backend, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret of this tenant")
    pool = mha_pool()
    slots, _ = fill(pool, "tenants")
    hashes = page_hashes(5, PAGES, pool.page_size)
    assert open_backend(pool).batch_set_v1(hashes, slots) == [True] * PAGES
    assert open_backend(pool, settings={"tenant_secret_file": str(secret)}).batch_exists(hashes) == 0


def test_salts_and_adapters_have_pages_of_their_own():
    plain = page_hashes(6, PAGES, 16)
    others = [
        page_hashes(6, PAGES, 16, salt="pepper"),
        page_hashes(6, PAGES, 16, extra_key="pepper"),
        page_hashes(6, PAGES, 16, salt="pepper", extra_key="pepper"),
    ]
    assert len({name for hashes in (plain, *others) for name in hashes}) == 4 * PAGES
    assert page_hashes(6, PAGES, 16) == plain


def test_tensors_go_there_and_back(open_backend):
    pool = mha_pool(dtype=torch.bfloat16)
    fill(pool, "tensors")
    pages = [pool.get_data_page(index * pool.page_size) for index in range(PAGES)]
    backend, hashes = open_backend(pool, interface_v1=0), page_hashes(7, PAGES, pool.page_size)
    assert not backend.exists(hashes[0])
    assert backend.get(hashes[0]) is None
    assert backend.batch_set(hashes[:-1], pages[:-1])
    assert backend.set(hashes[-1], pages[-1])
    assert backend.exists(hashes[0])
    assert backend.batch_exists(hashes) == PAGES
    targets = [pool.get_dummy_flat_data_page() for _ in hashes]
    found = backend.batch_get([*hashes, page_hashes(8, 1, 16)[0]], [*targets, pool.get_dummy_flat_data_page()])
    assert found[-1] is None
    for page, target, got in zip(pages, targets, found, strict=False):
        assert got is target
        assert torch.equal(page.view(torch.int16), got.view(torch.int16))
    assert torch.equal(backend.get(hashes[2]).view(torch.int16), pages[2].view(torch.int16))


def test_tensors_of_another_size_or_order_are_misses(open_backend):
    pool = mha_pool()
    slots, _ = fill(pool, "targets")
    hashes = page_hashes(9, PAGES, pool.page_size)
    backend = open_backend(pool, interface_v1=0)
    assert backend.batch_set_v1(hashes, slots) == [True] * PAGES
    page = pool.get_dummy_flat_data_page()
    assert backend.get(hashes[0], page) is page
    assert backend.get(hashes[0], page[:-1].clone()) is None
    assert backend.get(hashes[0], page.new_zeros(2 * page.numel())[::2]) is None


def test_settings_of_no_use_stop_the_engine(node):
    with pytest.raises(ConfigError, match="endpoint"):
        KVStoreHiCache(storage_config(""), {})
    with pytest.raises(ConfigError, match="load_timeout_ms"):
        KVStoreHiCache(storage_config(node.url, settings={"load_timeout": 5}), {})
    backend = KVStoreHiCache(storage_config(node.url, model=None), {})
    with pytest.raises(InvalidArgumentError, match="model"):
        backend.register_mem_pool_host(mha_pool())
    backend.close()


def test_what_cannot_be_asked_is_a_miss(open_backend):
    pool = mha_pool()
    backend = open_backend(pool)
    hashes = page_hashes(10, 2, pool.page_size)
    slots = pool.alloc(2 * pool.page_size)
    assert backend.batch_set_v1(hashes, slots[:-1]) == [False, False]
    assert backend.batch_get_v1(hashes, slots + 10_000_000) == [False, False]
    assert backend.batch_exists(["no hash"]) == 0
    assert backend.batch_exists([]) == 0
    assert backend.batch_get_v1([], slots[:0]) == []
    backend.close()
    assert backend.batch_exists(hashes) == 0
    assert backend.batch_get_v1(hashes, slots) == [False, False]
    assert backend.batch_set_v1(hashes, slots) == [False, False]


def test_a_cleared_store_is_empty_for_this_engine(open_backend):
    pool = mha_pool()
    slots, content = fill(pool, "cleared")
    hashes = page_hashes(11, PAGES, pool.page_size)
    backend, other = open_backend(pool), open_backend(pool)
    backend.batch_set_v1(hashes, slots)
    assert backend.clear()
    assert backend.batch_exists(hashes) == 0
    assert other.batch_exists(hashes) == PAGES
    assert backend.batch_set_v1(hashes, slots) == [True] * PAGES
    into = empty(pool)
    assert backend.batch_get_v1(hashes, into) == [True] * PAGES
    assert_pages(pool, into, content)


def test_metrics_come_once(open_backend):
    pool = mha_pool()
    slots, _ = fill(pool, "metrics")
    hashes = page_hashes(12, PAGES, pool.page_size)
    backend = open_backend(pool)
    backend.batch_set_v1(hashes, slots)
    backend.batch_get_v1(hashes, slots)
    metrics = backend.get_stats()
    assert (metrics.backup_pgs, metrics.prefetch_pgs) == ([PAGES], [PAGES])
    assert metrics.backup_bandwidth[0] > 0 < metrics.prefetch_bandwidth[0]
    assert backend.get_stats().prefetch_pgs == []
    counted = backend.statistics()
    assert (counted["save_good_blocks"], counted["load_good_blocks"], counted["connected"]) == (PAGES, PAGES, 1)
