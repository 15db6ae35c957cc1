"""A client's life: the node goes away and comes back, calls are cancelled, processes fork and end."""

import asyncio
import gc
import itertools
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.client.session import backoff_s
from kvstore.config import ClientConfig
from kvstore.errors import ClosedError, InvalidArgumentError
from tests.node_process import (
    BLOCK_BYTES,
    GRACE_S,
    LANES,
    NodeProcess,
    some_blocks,
    some_keys,
    wait_until,
    wait_until_async,
)


@pytest.fixture
def node(tmp_path):
    with NodeProcess(tmp_path) as running:
        yield running


async def is_waited_for(observer: kvstore.AsyncClient) -> bool:
    return (await observer.stats())["node"]["gets_waiting"] > 0


class TestLostNode:
    @pytest.mark.parametrize("lane", LANES)
    def test_is_misses_until_it_is_back(self, node, lane):
        keys, blocks, buffers = some_keys(3), some_blocks(3), np.zeros((3, BLOCK_BYTES), np.uint8)
        config = ClientConfig(lane=lane, timeout_ms=3000, reconnect_backoff_ms_max=50)
        with kvstore.connect(node.url, config=config) as store:
            assert store.stats()["client"]["lane"] == lane
            assert store.put(keys, blocks).all_ok
            node.kill()
            wait_until(lambda: not store.stats(timeout_ms=100)["client"]["connected"], "the loss is noticed")
            result = store.get(keys, buffers)
            assert result.status.tolist() == [Status.MISS] * 3
            assert result.cause.tolist() == [Status.UNAVAILABLE] * 3
            assert store.put(keys, blocks).status.tolist() == [Status.UNAVAILABLE] * 3
            assert store.match(keys) == 0
            assert not store.exists(keys).any()
            assert not store.touch(keys).any()
            assert not store.delete(keys).any()
            assert not store.flush()
            assert store.pin(keys, owner="test", ttl_s=60).cause.tolist() == [Status.UNAVAILABLE] * 3
            with store.borrow(keys) as views:
                assert list(views) == [None] * 3
            assert store.stats(timeout_ms=500)["node"] is None
            assert not buffers.any()
            node.start()
            wait_until(lambda: store.stats()["client"]["connected"], "the client is back by itself", 20)
            assert store.match(keys) == 0
            assert store.put(keys, blocks).all_ok
            assert store.get(keys, buffers).all_ok
            assert (buffers == blocks).all()

    @pytest.mark.parametrize("lane", LANES)
    def test_a_frozen_node_costs_no_more_than_the_deadline(self, node, lane):
        with kvstore.connect(node.url, lane=lane, timeout_ms=5000) as store:
            assert store.put(some_keys(1), some_blocks(1)).all_ok
            node.freeze()
            buffers = np.zeros((1, BLOCK_BYTES), np.uint8)
            start_s = time.monotonic()
            result = store.get(some_keys(2)[1:], buffers, timeout_ms=300)
            assert time.monotonic() - start_s < 0.3 + GRACE_S
            assert result.status.tolist() == [Status.MISS]
            assert result.cause.tolist() == [Status.TIMEOUT]
            start_s = time.monotonic()
            assert not store.flush(timeout_ms=300)
            assert not store.pin(some_keys(1), owner="test", ttl_s=60, timeout_ms=300).ok.any()
            assert time.monotonic() - start_s < 0.6 + GRACE_S
            node.thaw()
            wait_until(lambda: store.match(some_keys(1)) == 1, "the node is back")
            assert not buffers.any()

    def test_async_client_comes_back(self, node):
        async def lose_and_find():
            config = ClientConfig(timeout_ms=3000, reconnect_backoff_ms_max=50)
            async with await kvstore.connect_async(node.url, config=config) as store:
                assert (await store.put(some_keys(1), some_blocks(1))).all_ok
                await asyncio.to_thread(node.kill)
                result = await store.get(some_keys(1), np.zeros((1, BLOCK_BYTES), np.uint8))
                assert result.status.tolist() == [Status.MISS]
                await asyncio.to_thread(node.start)

                async def put_works() -> bool:
                    return (await store.put(some_keys(1), some_blocks(1), timeout_ms=500)).all_ok

                await wait_until_async(put_works, "the client is back by itself", 20)

        asyncio.run(lose_and_find())

    def test_attempts_are_spread_and_bounded(self):
        pauses = list(itertools.islice(backoff_s(1.0, random.Random(5)), 200))
        assert pauses == list(itertools.islice(backoff_s(1.0, random.Random(5)), 200))
        assert pauses[0] <= 0.02
        assert all(0.5 <= pause <= 1.0 for pause in pauses[10:])
        assert len(set(pauses)) == len(pauses)


class TestAsync:
    def test_the_wrong_loop(self):
        store = asyncio.run(kvstore.connect_async("embedded://?memory=16MiB"))

        async def use():
            await store.match(some_keys(1))

        with pytest.raises(InvalidArgumentError, match="another event loop"):
            asyncio.run(use())

    def test_a_cancelled_get_returns_only_when_nothing_is_written_any_more(self, node):
        keys, blocks, buffers = some_keys(1), some_blocks(1), np.zeros((1, BLOCK_BYTES), np.uint8)

        async def cancel():
            async with await kvstore.connect_async(node.url) as store, await kvstore.connect_async(node.url) as writer:
                pending = asyncio.create_task(store.get(keys, buffers, wait_ms=800, timeout_ms=1000))
                await wait_until_async(lambda: is_waited_for(writer), "the get waits at the node")
                pending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await pending
                buffers[:] = 0
                assert (await writer.put(keys, blocks)).all_ok
                assert await store.match(keys) == 1
                assert not buffers.any()

        asyncio.run(cancel())

    def test_other_verbs_are_cancelled_at_once_and_borrows_given_back(self, node):
        keys, blocks = some_keys(1), some_blocks(1)

        async def cancel():
            async with await kvstore.connect_async(node.url) as store, await kvstore.connect_async(node.url) as writer:
                borrow = store.borrow(keys, wait_ms=20_000, timeout_ms=20_000)
                pending = asyncio.create_task(borrow.__aenter__())
                await wait_until_async(lambda: is_waited_for(writer), "the borrow waits at the node")
                pending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await pending
                assert (await writer.put(keys, blocks)).all_ok

                async def is_given_back() -> bool:
                    node_stats = (await writer.stats())["node"]
                    return node_stats["gets_waiting"] == 0 and node_stats["leases"] == 0

                await wait_until_async(is_given_back, "no lease is left")

        asyncio.run(cancel())

    def test_a_cancelled_connect_leaves_nothing_open(self, node):
        def sessions_open() -> int:
            with kvstore.connect(node.url) as store:
                return store.stats()["node"]["sessions_open"]

        async def cancel():
            connecting = asyncio.create_task(kvstore.connect_async(node.url))
            await asyncio.sleep(0)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

        asyncio.run(cancel())
        wait_until(lambda: sessions_open() == 1, "only the asking session is open")


class TestEndOfLife:
    def test_a_dropped_client_is_closed(self, node):
        with kvstore.connect(node.url) as observer:
            dropped = kvstore.connect(node.url)
            assert observer.stats()["node"]["sessions_open"] == 2
            del dropped
            gc.collect()
            wait_until(lambda: observer.stats()["node"]["sessions_open"] == 1, "the session is closed")

    @pytest.mark.parametrize("lane", LANES)
    def test_exit_without_close_is_quick_and_silent(self, node, lane):
        ended = _run_script(
            f"""
            import numpy as np, kvstore
            store = kvstore.connect({node.url!r}, lane={lane!r})
            borrow = store.borrow(np.zeros((1, 32), np.uint8))
            """
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_exit_of_an_embedded_store_without_close(self):
        ended = _run_script(
            """
            import kvstore
            store = kvstore.connect("embedded://?memory=16MiB")
            """
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_exit_while_the_node_is_lost(self, node):
        script = f"""
            import sys, kvstore
            store = kvstore.connect({node.url!r})
            print("connected", flush=True)
            sys.stdin.readline()
            """
        process = _start_script(script)
        assert process.stdout.readline() == "connected\n"
        node.kill()
        stdout, stderr = process.communicate("\n", timeout=20)
        assert (process.returncode, stdout) == (0, "")
        assert all(line.startswith("lost the session with ") for line in stderr.splitlines()), stderr

    def test_async_exit_without_close(self, node):
        ended = _run_script(
            f"""
            import asyncio, kvstore
            async def main():
                global store
                store = await kvstore.connect_async({node.url!r})
            asyncio.run(main())
            """
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


FORKED_USE = """
import os, sys, numpy as np, kvstore
from kvstore.errors import ClosedError, UnsupportedError
keys = np.zeros((1, 32), np.uint8)
store = kvstore.connect({url!r}{lane})
assert store.put(keys, [b"x" * 4096]).all_ok
borrow = store.borrow(keys)
child = os.fork()
if child == 0:
    for use in (lambda: store.match(keys), lambda: borrow.views, store.stats):
        try:
            use()
        except ClosedError as error:
            assert "fork" in str(error)
        else:
            os._exit(1)
    store.close()
    try:
        kvstore.connect({url!r})
    except UnsupportedError as error:
        assert "fork" in str(error)
    else:
        os._exit(2)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert (borrow.views[0] == ord("x")).all()
borrow.release()
assert store.match(keys) == 1
store.close()
"""


class TestFork:
    @pytest.mark.parametrize("lane", LANES)
    def test_a_child_is_told_and_the_parent_goes_on(self, node, lane):
        ended = _run_script(FORKED_USE.format(url=node.url, lane=f", lane={lane!r}"))
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_embedded(self):
        ended = _run_script(FORKED_USE.format(url="embedded://?memory=16MiB", lane=""))
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_a_fork_before_the_first_use_may_connect(self, node):
        ended = _run_script(
            f"""
            import os, kvstore
            child = os.fork()
            with kvstore.connect({node.url!r}) as store:
                assert store.stats()["client"]["connected"]
            if child:
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            """
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def _start_script(script: str) -> subprocess.Popen:
    lines = script.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(line[indent:] for line in lines)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default", "PYTHONFAULTHANDLER": "1"},
    )


def _run_script(script: str) -> subprocess.CompletedProcess:
    process = _start_script(script)
    try:
        stdout, stderr = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.parametrize("lane", LANES)
def test_a_view_that_is_kept_is_never_a_dangling_pointer(node, lane):
    blocks = some_blocks(2)
    with kvstore.connect(node.url, lane=lane) as store:
        assert store.put(some_keys(2), blocks).all_ok
        borrow = store.borrow(some_keys(2))
        kept = list(borrow.views)
        borrow.release()
        borrow.release()
        with pytest.raises(ClosedError, match="borrow was released"):
            _ = borrow.views
    del store, borrow
    gc.collect()
    # The node has evicted nothing, so the bytes are even the old ones.
    assert all((view == block).all() for view, block in zip(kept, blocks, strict=True))
