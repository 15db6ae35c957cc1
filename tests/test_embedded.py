"""The store inside the client's process: the same API, nothing outside."""

import asyncio
import gc
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.errors import ConnectError
from tests.node_process import BLOCK_BYTES, some_blocks, some_keys, wait_until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where this process puts its temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_write_and_read_back():
    keys, blocks = some_keys(8), some_blocks(8)
    with kvstore.connect("embedded://?memory=16MiB") as store:
        written = store.put(keys, blocks)
        assert written.all_ok
        assert written.status.dtype == np.uint8
        assert written.status.shape == (8,)
        assert written.cause.tolist() == [Status.OK] * 8
        assert store.match(keys) == 8
        buffers = np.zeros_like(blocks)
        read = store.get(keys, buffers)
        assert read.ok.all()
        assert (buffers == blocks).all()
        again = store.put(keys, blocks)
        assert again.all_ok
        assert again.cause.tolist() == [Status.EXISTS] * 8
        other = store.put(keys[:1], some_blocks(1, seed=9))
        assert other.status.tolist() == [Status.CONFLICT]
        with store.borrow(keys) as views:
            assert not views[0].flags.writeable
            assert all((view == block).all() for view, block in zip(views, blocks, strict=True))


def test_misses_are_values():
    keys = some_keys(4)
    with kvstore.connect("embedded://?memory=16MiB") as store:
        assert store.put(keys[:2], some_blocks(2)).all_ok
        read = store.get(keys, np.zeros((4, BLOCK_BYTES), np.uint8))
        assert read.status.tolist() == [Status.OK, Status.OK, Status.MISS, Status.MISS]
        assert read.ok.tolist() == [True, True, False, False]
        assert not read.all_ok
        assert repr(read) == "GetResult(OK: 2, MISS: 2)"
        assert store.match(keys) == 2
        assert store.exists(keys).tolist() == [True, True, False, False]
        assert store.touch(keys, ttl_s=60).tolist() == [True, True, False, False]
        assert store.delete(keys[1:]).tolist() == [True, False, False]
        borrow = store.borrow(keys[:2])
        assert borrow.status.tolist() == [Status.OK, Status.MISS]
        assert borrow.views[1] is None
        borrow.release()
        borrow.release()


def test_blocks_expire():
    with kvstore.connect("embedded://?memory=16MiB") as store:
        assert store.put(some_keys(1), some_blocks(1), ttl_s=0.05).all_ok
        wait_until(lambda: not store.exists(some_keys(1)).any(), "the block expires")
        assert store.match(some_keys(1)) == 0


def test_an_empty_batch():
    with kvstore.connect("embedded://?memory=16MiB") as store:
        none = some_keys(0)
        assert store.match(none) == 0
        assert store.put(none, []).all_ok
        assert store.get(none, []).status.shape == (0,)
        assert store.exists(none).shape == (0,)


def test_a_full_store_evicts_the_oldest():
    keys = some_keys(64)
    with kvstore.connect("embedded://?memory=4MiB") as store:
        for index in range(64):
            assert store.put(keys[index : index + 1], [np.full(1 << 17, index, np.uint8)]).all_ok
        assert store.exists(keys[-1:]).all()
        assert not store.exists(keys[:1]).any()
        node = store.stats()["node"]
        assert node["evicted_blocks"] > 0
        assert node["used_bytes"] <= node["capacity_bytes"] == 4 << 20


def test_stats_of_both_sides():
    with kvstore.connect("embedded://?memory=16MiB") as store:
        store.put(some_keys(2), some_blocks(2))
        stats = store.stats()
        assert stats["client"]["lane"] == "mapped"
        assert stats["client"]["connected"] is True
        assert stats["client"]["blocks_written"] == 2
        assert stats["node"]["blocks"] == 2


def test_leaves_nothing_behind(folder):
    store = kvstore.connect("embedded://?memory=16MiB")
    (runtime_dir,) = folder.iterdir()
    assert runtime_dir.stat().st_mode & 0o777 == 0o700
    assert any(path.is_socket() for path in runtime_dir.iterdir())
    store.close()
    assert not list(folder.iterdir())


def test_a_dropped_store_leaves_nothing_behind(folder):
    store = kvstore.connect("embedded://?memory=16MiB")
    assert list(folder.iterdir())
    del store
    gc.collect()
    assert not list(folder.iterdir())


def test_memory_that_cannot_be_had_leaves_nothing_behind(folder):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ConnectError, match="embedded store cannot be started"):
            kvstore.connect("embedded://?memory=16MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(folder.iterdir())


def test_stores_are_separate():
    with kvstore.connect("embedded://?memory=16MiB") as one, kvstore.connect("embedded://?memory=16MiB") as other:
        assert one.put(some_keys(1), some_blocks(1)).all_ok
        assert not other.exists(some_keys(1)).any()


def test_asynchronous_twins():
    async def use() -> None:
        keys, blocks = some_keys(8), some_blocks(8)
        async with await kvstore.connect_async("embedded://?memory=16MiB") as store:
            assert (await store.put(keys, blocks)).all_ok
            assert await store.match(keys) == 8
            buffers = np.zeros_like(blocks)
            assert (await store.get(keys, buffers)).all_ok
            assert (buffers == blocks).all()
            async with store.borrow(keys) as views:
                assert (views[7] == blocks[7]).all()
            assert (await store.exists(keys)).all()
            assert (await store.touch(keys, ttl_s=60)).all()
            assert (await store.delete(keys)).all()
            assert (await store.stats())["node"]["blocks"] == 0

    asyncio.run(use())


def test_many_asynchronous_calls_at_once():
    async def use() -> None:
        keys, blocks = some_keys(200), some_blocks(200)
        buffers = np.zeros_like(blocks)
        async with await kvstore.connect_async("embedded://?memory=16MiB", timeout_ms=20_000) as store:
            puts = [store.put(keys[index : index + 1], blocks[index : index + 1]) for index in range(200)]
            assert all(result.all_ok for result in await asyncio.gather(*puts))
            gets = [store.get(keys[index : index + 1], buffers[index : index + 1]) for index in range(200)]
            assert all(result.all_ok for result in await asyncio.gather(*gets))
        assert (buffers == blocks).all()

    asyncio.run(use())


def test_runtime_files_are_in_the_temporary_folder(folder):
    with kvstore.connect("embedded://?memory=16MiB"):
        assert [Path(path).name.startswith("kvstore-") for path in folder.iterdir()] == [True]
