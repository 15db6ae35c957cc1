"""What a client refuses: addresses, nodes that do not answer, arguments of no use, a client that is closed."""

import asyncio
import socket
import threading
import time

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.client.url import parse_url
from kvstore.config import ClientConfig
from kvstore.errors import (
    BlockTooLargeError,
    BufferSizeError,
    ClosedError,
    ConfigError,
    ConnectError,
    InvalidArgumentError,
    UnknownSchemeError,
)
from kvstore.transport.address import NodeAddress
from tests.node_process import BLOCK_BYTES, GRACE_S, LANES, NodeProcess, some_blocks, some_keys, wait_until


@pytest.fixture
def node(tmp_path):
    with NodeProcess(tmp_path) as running:
        yield running


@pytest.fixture
def store():
    with kvstore.connect("embedded://?memory=16MiB&max_block=1MiB") as client:
        yield client


class TestAddresses:
    @pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "http://x", "KV://127.0.0.1:1", "://x"])
    def test_unknown_scheme(self, url):
        with pytest.raises(UnknownSchemeError, match="known are kv and embedded"):
            kvstore.connect(url)

    @pytest.mark.parametrize(
        "url",
        [
            *(
                "",
                "127.0.0.1:7400",
                "kv://",
                "kv://host",
                "kv://host:",
                "kv://:7400",
                "kv://host:port",
                "kv://host:65536",
            ),
            *("kv://host:-1", "kv://host:1/path", "kv://user@host:1", "kv://::1:7400", "kv://[host]:1", "kv://[::1]"),
            *("embedded://", "embedded://?", "embedded://?memory", "embedded://?memory=", "embedded://?memory=much"),
            *(
                "embedded://here?memory=1GiB",
                "embedded://?memory=1GiB&colour=red",
                "embedded://?memory=1GiB&memory=2GiB",
            ),
            *("embedded://?memory=1GiB&disk=/a", "embedded://?memory=1GiB&disk_size=1GiB"),
            *("embedded://?memory=1GiB&disk=/a&disk_size=1KiB", "embedded://?memory=1GiB&disk=/a,/a&disk_size=1GiB"),
            *("embedded://?memory=1GiB&threads=x", "embedded://?memory=1GiB&max_block=1TiB", "embedded://?memory=1"),
        ],
    )
    def test_malformed(self, url):
        with pytest.raises(InvalidArgumentError) as raised:
            kvstore.connect(url)
        assert not isinstance(raised.value, UnknownSchemeError)

    def test_accepted(self):
        assert parse_url("kv://node-3.example:7400") == NodeAddress("node-3.example", 7400)
        assert parse_url("kv://[::1]:7400") == NodeAddress("::1", 7400)
        assert str(NodeAddress("::1", 7400)) == "[::1]:7400"
        settings = parse_url("embedded://?memory=1GiB&max_block=2MiB&threads=3")
        assert (settings.memory_bytes, settings.max_block_bytes, settings.threads) == (1 << 30, 2 << 20, 3)
        assert settings.disks == []

    @pytest.mark.parametrize(
        ("value", "directories"),
        [
            ("/mnt/nvme", ["/mnt/nvme"]),
            ("/mnt/a,/mnt/b", ["/mnt/a", "/mnt/b"]),
            ("%2Fmnt%2Fa%2C%2Fmnt%2Fb", ["/mnt/a", "/mnt/b"]),
            ("/mnt/c++%20and%20%C3%A9t%C3%A9%26", ["/mnt/c++ and été&"]),
        ],
    )
    def test_directories_are_percent_decoded(self, value, directories):
        settings = parse_url(f"embedded://?memory=1GiB&disk={value}&disk_size=1GiB")
        assert [directory for directory, _ in settings.disks] == directories

    @pytest.mark.parametrize("setting", [{"timeout_ms": 0}, {"timeout_ms": -5}, {"lane": "pigeon"}])
    def test_settings_out_of_range(self, setting):
        with pytest.raises(ConfigError):
            kvstore.connect("kv://127.0.0.1:1", **setting)


class TestNobodyAnswers:
    def test_nothing_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}"):
            kvstore.connect(f"kv://127.0.0.1:{port}", timeout_ms=1000)

    @pytest.mark.parametrize("timeout_ms", [100, 700])
    def test_something_listens_and_says_nothing(self, timeout_ms):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"kv://127.0.0.1:{server.getsockname()[1]}"
            start_s = time.monotonic()
            with pytest.raises(ConnectError, match=f"within {timeout_ms} ms"):
                kvstore.connect(url, timeout_ms=timeout_ms)
            assert time.monotonic() - start_s < timeout_ms / 1000 + GRACE_S

    def test_something_else_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"kv://127.0.0.1:{server.getsockname()[1]}"
            greeter = threading.Thread(target=_greet_and_hang_up, args=(server,), daemon=True)
            greeter.start()
            with pytest.raises(ConnectError):
                kvstore.connect(url, timeout_ms=1000)

    def test_a_name_that_does_not_resolve(self):
        with pytest.raises(ConnectError, match=r"no-such-host\.invalid"):
            kvstore.connect("kv://no-such-host.invalid:7400", timeout_ms=1000)

    def test_a_frozen_node(self, node):
        node.freeze()
        start_s = time.monotonic()
        with pytest.raises(ConnectError, match="within 500 ms"):
            kvstore.connect(node.url, timeout_ms=500)
        assert time.monotonic() - start_s < 0.5 + GRACE_S

    def test_async(self):
        async def attempt():
            await kvstore.connect_async("kv://127.0.0.1:1", timeout_ms=1000)

        with pytest.raises(ConnectError):
            asyncio.run(attempt())


class TestArguments:
    @pytest.mark.parametrize(
        "keys",
        [
            np.zeros((2, 31), np.uint8),
            np.zeros((2, 32), np.uint16),
            np.zeros(32, np.uint8),
            np.zeros((4, 32), np.uint8)[::2],
            np.zeros((2, 64), np.uint8)[:, ::2],
            b"\0" * 32,
            None,
            "key",
        ],
        ids=["short", "uint16", "flat", "strided", "strided in a key", "bytes", "none", "text"],
    )
    def test_keys(self, store, keys):
        with pytest.raises(InvalidArgumentError):
            store.match(keys)
        with pytest.raises(InvalidArgumentError):
            store.get(keys, some_blocks(2))
        with pytest.raises(InvalidArgumentError):
            store.delete(keys)

    @pytest.mark.parametrize(
        "buffers",
        [
            some_blocks(3),
            [b"one block"],
            [b"x" * 100, None],
            [b"x" * 100, 7],
            None,
            np.zeros((4, BLOCK_BYTES), np.uint8)[::2],
            [np.zeros((64, 64), np.uint8).T[:8], b"x" * 100],
        ],
        ids=["too many", "too few", "none inside", "number inside", "none", "strided", "one strided"],
    )
    def test_buffers(self, store, buffers):
        with pytest.raises(InvalidArgumentError):
            store.put(some_keys(2), buffers)
        assert not store.exists(some_keys(2)).any()

    def test_an_empty_block(self, store):
        with pytest.raises(BufferSizeError, match="block 1"):
            store.put(some_keys(2), [b"x" * 100, b""])

    def test_a_block_above_the_limit(self, node):
        config = ClientConfig(max_block_bytes=1 << 16)
        blocks = [np.zeros(1 << 16, np.uint8), [np.zeros(1 << 16, np.uint8), np.zeros(1, np.uint8)]]
        with kvstore.connect(node.url, config=config) as store:
            with pytest.raises(BlockTooLargeError, match=f"block 1 of the batch has {(1 << 16) + 1} bytes.*{1 << 16}"):
                store.put(some_keys(2), blocks)
            assert not store.exists(some_keys(2)).any()

    def test_a_block_that_the_node_will_not_take(self, store):
        result = store.put(some_keys(1), [np.zeros((1 << 20) + 1, np.uint8)])
        assert result.status.tolist() == [Status.TOO_LARGE]
        assert not result.all_ok

    def test_reading_into_read_only_memory(self, store):
        assert store.put(some_keys(1), some_blocks(1)).all_ok
        with pytest.raises(InvalidArgumentError):
            store.get(some_keys(1), [bytes(BLOCK_BYTES)])

    def test_a_buffer_of_another_size_than_the_block(self, store):
        keys = some_keys(3)
        assert store.put(keys, some_blocks(3)).all_ok
        buffers = [bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES - 1), bytearray(BLOCK_BYTES)]
        with pytest.raises(BufferSizeError, match=f"block 1 .*{bytes(keys[1]).hex()}"):
            store.get(keys, buffers)

    @pytest.mark.parametrize("timeout_ms", [0, -1, 1.5, "1"])
    def test_timeouts(self, store, timeout_ms):
        with pytest.raises(InvalidArgumentError, match="timeout_ms"):
            store.match(some_keys(1), timeout_ms=timeout_ms)

    @pytest.mark.parametrize("ttl_s", [0, -1.0, float("inf"), float("nan")])
    def test_times_to_live(self, store, ttl_s):
        with pytest.raises(InvalidArgumentError, match="ttl_s"):
            store.put(some_keys(1), some_blocks(1), ttl_s=ttl_s)
        with pytest.raises(InvalidArgumentError, match="ttl_s"):
            store.touch(some_keys(1), ttl_s=ttl_s)

    @pytest.mark.parametrize("option", [{"first_depth": -1}, {"wait_ms": -1}, {"wait_ms": 0.5}])
    def test_options(self, store, option):
        with pytest.raises(InvalidArgumentError, match=f"^{next(iter(option))} is "):
            store.get(some_keys(1), some_blocks(1), **option)


VERBS = {
    "match": lambda store: store.match(some_keys(1)),
    "put": lambda store: store.put(some_keys(1), some_blocks(1)),
    "get": lambda store: store.get(some_keys(1), some_blocks(1)),
    "borrow": lambda store: store.borrow(some_keys(1)),
    "exists": lambda store: store.exists(some_keys(1)),
    "touch": lambda store: store.touch(some_keys(1)),
    "delete": lambda store: store.delete(some_keys(1)),
    "flush": lambda store: store.flush(),
    "pin": lambda store: store.pin(some_keys(1), owner="test", ttl_s=1),
    "stats": lambda store: store.stats(),
}


class TestClosed:
    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb(self, store, verb):
        store.close()
        store.close()
        with pytest.raises(ClosedError, match="closed"):
            VERBS[verb](store)

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_async(self, verb):
        async def use_closed():
            async with await kvstore.connect_async("embedded://?memory=16MiB") as store:
                pass
            await store.close()
            pending = VERBS[verb](store)
            await (pending.__aenter__() if verb == "borrow" else pending)

        with pytest.raises(ClosedError, match="closed"):
            asyncio.run(use_closed())

    def test_closing_ends_what_is_pending(self, node):
        store = kvstore.connect(node.url, timeout_ms=20_000)
        results = []
        reader = threading.Thread(
            target=lambda: results.append(store.get(some_keys(1), some_blocks(1), wait_ms=20_000)), daemon=True
        )
        reader.start()
        with kvstore.connect(node.url) as other:
            wait_until(lambda: other.stats()["node"]["gets_waiting"] == 1, "the get waits at the node")
        store.close()
        reader.join(GRACE_S)
        assert not reader.is_alive()
        assert results[0].status.tolist() == [Status.MISS]

    def test_borrowed_views_outlive_the_client(self, node):
        block = some_blocks(1)
        for lane in LANES:
            store = kvstore.connect(node.url, lane=lane)
            assert store.put(some_keys(1), block).all_ok
            with store.borrow(some_keys(1)) as views:
                store.close()
                assert (views[0] == block[0]).all()


def _greet_and_hang_up(server: socket.socket) -> None:
    while True:
        try:
            stranger, _ = server.accept()
        except OSError:
            return
        with stranger:
            stranger.sendall(b"220 mail.example ESMTP\r\n")
