"""Garbage, port scanners and wrong tokens on every socket: the peer is dropped, counted, and nobody else notices."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

import kvstore
from kvstore.errors import ConnectError
from kvstore.transport.address import NodeAddress
from kvstore.transport.control import ControlPlane, Hello
from tests.faults.strangers import ON_TCP, ON_UNIX, Stranger, hello_frame, some_bytes
from tests.node_process import LANES, wait_until
from tests.support.node import ALL_LANES, RDMA_SETTING, Node
from tests.support.processes import descriptors, listeners, unix_sockets
from tests.support.traffic import Traffic

SEED = 3
ROUNDS = 12
# What UCX and gRPC may keep open for later.
SPARE_DESCRIPTORS = 4
# Within these the node drops a peer that never says hello; docs/WIRE.md promises 5 s.
GREETING_S = 20.0


def visit_tcp(host: str, port: int, stranger: Stranger, source: random.Random) -> None:
    with socket.create_connection((host, port), timeout=5) as peer, contextlib.suppress(OSError):
        stranger(peer, source)  # being cut off in the middle is what a stranger has to expect


def visit_unix(path: str, stranger: Stranger, source: random.Random) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer, contextlib.suppress(OSError):
        peer.settimeout(5)
        peer.connect(path)
        stranger(peer, source)


@contextlib.contextmanager
def clients_that_lie(monkeypatch: pytest.MonkeyPatch, after_s: float = 0, **lies: object) -> Iterator[None]:
    """Clients start their session this much later, and with other words, than the node's hello told them to."""
    truth = ControlPlane.hello

    def hello(control: ControlPlane, **options: Any) -> Hello:
        answer = truth(control, **options)
        time.sleep(after_s)
        return dataclasses.replace(answer, **lies)

    with monkeypatch.context() as patched:
        patched.setattr(ControlPlane, "hello", hello)
        yield


class TestListeners:
    def test_the_node_listens_on_loopback_only(self, node):
        found = listeners(node.pid)
        assert NodeAddress.parse(node.address).port in {listener.port for listener in found}
        assert len(found) >= 2, "the control plane and a data thread"
        assert all(ipaddress.ip_address(listener.host).is_loopback for listener in found), found

    def test_its_unix_sockets_are_for_its_user_only(self, node):
        paths = unix_sockets(node.pid)
        assert paths
        for path in paths:
            assert os.stat(path).st_mode & 0o777 == 0o600
            assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("lane", ALL_LANES)
    def test_a_client_listens_on_loopback_only(self, node, lane):
        """UCX opens sockets of its own in clients, too."""
        before = listeners(os.getpid())
        with kvstore.connect(node.url, lane=lane):
            opened = listeners(os.getpid()) - before
            assert all(ipaddress.ip_address(listener.host).is_loopback for listener in opened), opened
        wait_until(lambda: not listeners(os.getpid()) - before, "a closed client listens no more")


class TestGarbage:
    @pytest.mark.parametrize("lane", LANES)
    def test_on_every_tcp_port(self, node, patient, lane):
        source = random.Random(SEED)
        ports = listeners(node.pid) | listeners(os.getpid())
        with Traffic(patient, f"beside garbage, seed {SEED}") as traffic:
            open_before = len(descriptors(node.pid))
            for _ in range(ROUNDS):
                for listener in ports:
                    for stranger in ON_TCP:
                        visit_tcp(listener.host, listener.port, stranger, source)
                assert node.is_running, f"seed {SEED}: {node.log}"
            hits = traffic.hits
            wait_until(lambda: traffic.hits >= hits + 20, "the client is served")
        self.check_undisturbed(node, patient, traffic, lane)
        wait_until(
            lambda: len(descriptors(node.pid)) <= open_before + SPARE_DESCRIPTORS,
            "strangers leave no open descriptor",
            30,
        )

    @pytest.mark.parametrize("lane", ["mapped", "tcp"])
    def test_on_every_unix_socket(self, node, patient, lane):
        source = random.Random(SEED)
        visits = 0
        with Traffic(patient, f"beside garbage, seed {SEED}") as traffic:
            assert node.counters  # opens the control connection, which stays
            open_before = len(descriptors(node.pid))
            for _ in range(ROUNDS):
                for path in unix_sockets(node.pid):
                    for stranger in ON_UNIX:
                        visit_unix(path, stranger, source)
                        visits += 1
            hits = traffic.hits
            wait_until(lambda: traffic.hits >= hits + 20, "the client is served")
        self.check_undisturbed(node, patient, traffic, lane)
        wait_until(lambda: node.counters["protocol_errors"] >= visits, f"all of {visits} strangers are counted")
        assert node.counters["sessions_refused"] == 0
        wait_until(lambda: len(descriptors(node.pid)) <= open_before, "strangers leave no open descriptor")

    def check_undisturbed(self, node: Node, store, traffic, lane):
        assert traffic.misses == 0
        assert traffic.writes.total() == traffic.stored
        client = store.stats()["client"]
        assert client["lane"] == lane
        assert (client["connected"], client["sessions"], client["sessions_lost"]) == (True, 1, 0)
        assert node.is_running
        assert "Traceback" not in node.log

    def test_random_bytes_do_not_end_the_node(self, node):
        """More of them, without anybody beside: what is parsed before a token is checked must stand anything."""
        source = random.Random(SEED)
        for _ in range(300):
            for listener in listeners(node.pid):
                visit_tcp(listener.host, listener.port, some_bytes, source)
            assert node.is_running, f"seed {SEED}: {node.log}"
        with kvstore.connect(node.url) as store:
            assert store.stats()["client"]["connected"]
        assert node.stop() == 0


class TestIdle:
    def test_peers_that_say_nothing_are_dropped_or_do_no_harm(self, node):
        with contextlib.ExitStack() as opened:
            store = opened.enter_context(kvstore.connect(node.url, timeout_ms=30_000))
            traffic = opened.enter_context(Traffic(store, "beside the idle"))
            silent = []
            for path in unix_sockets(node.pid):
                for _ in range(20):
                    peer = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    peer.connect(path)
                    silent.append(peer)
            for listener in listeners(node.pid):
                for _ in range(20):
                    opened.enter_context(socket.create_connection((listener.host, listener.port), timeout=5))
            end_s = time.monotonic() + GREETING_S
            while silent:
                dropped, _, _ = select.select(silent, [], [], max(0.0, end_s - time.monotonic()))
                assert dropped, f"{len(silent)} peers that never said hello are still connected"
                assert all(peer.recv(1) == b"" for peer in dropped)
                silent = [peer for peer in silent if peer not in dropped]
            hits = traffic.hits
            wait_until(lambda: traffic.hits >= hits + 20, "the client is served")
            assert traffic.misses == 0
        assert node.is_running


class TestTokens:
    def test_an_unknown_token_on_the_unix_socket(self, node):
        source = random.Random(SEED)
        for path in unix_sockets(node.pid):
            for _ in range(10):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                    peer.settimeout(GREETING_S)
                    peer.connect(path)
                    peer.send(hello_frame(source.randbytes(32)))
                    assert peer.recv(4096) == b"", "an unknown token was answered"
        assert node.counters["sessions_refused"] == 10 * len(unix_sockets(node.pid))
        assert node.counters["sessions_opened"] == node.counters["protocol_errors"] == 0

    @pytest.mark.parametrize("lane", ALL_LANES)
    def test_a_wrong_token_over_each_lane(self, node, lane, monkeypatch):
        with clients_that_lie(monkeypatch, capability=bytes(32)), pytest.raises(ConnectError):
            kvstore.connect(node.url, lane=lane, timeout_ms=1500)
        wait_until(lambda: node.counters["sessions_refused"] >= 1, "it is counted")
        assert node.counters["sessions_opened"] == 0
        with kvstore.connect(node.url, lane=lane) as store:
            assert store.stats()["client"]["connected"]

    @pytest.mark.parametrize("lane", ["mapped", "tcp"])
    def test_a_token_that_is_too_old(self, tmp_path, lane, monkeypatch):
        with Node(tmp_path, settings=f"capability_ttl_ms = 100\n{RDMA_SETTING}") as node:
            with clients_that_lie(monkeypatch, after_s=0.3), pytest.raises(ConnectError):
                kvstore.connect(node.url, lane=lane, timeout_ms=1500)
            wait_until(lambda: node.counters["sessions_refused"] >= 1, "it is counted")
            assert node.counters["sessions_opened"] == 0
