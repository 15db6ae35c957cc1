"""A node as a process: what it says, what it refuses, how it ends, and what strangers on its ports can do."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import kvstore
from kvstore.errors import InvalidArgumentError, VersionMismatchError
from kvstore.proto.v1 import control_pb2, control_pb2_grpc
from kvstore.status import Status
from kvstore.transport import native
from kvstore.transport.address import NodeAddress
from kvstore.transport.control import PIN_KEYS_MAX, ControlPlane, Hello
from kvstore.transport.lanes import host_id
from tests.node_process import COMMAND, STOP_TIMEOUT_S, NodeProcess, wait_until

BLOCK_BYTES = 4096
PROTO = Path(__file__).parents[1] / "proto" / "kvstore" / "v1" / "control.proto"


@pytest.fixture
def node(tmp_path):
    with NodeProcess(tmp_path, "--threads", "2") as running:
        yield running


@pytest.fixture
def control(node):
    plane = ControlPlane(NodeAddress.parse(node.address))
    yield plane
    plane.close()


def serve_and_fail(*flags: str) -> subprocess.CompletedProcess[str]:
    """Runs a node that cannot start."""
    return subprocess.run([*COMMAND, "serve", *flags], capture_output=True, text=True, timeout=STOP_TIMEOUT_S)


def hello(control: ControlPlane) -> Hello:
    return control.hello(client_version="test", wire_version=native().WIRE_VERSION, shm=False, timeout_ms=5000)


def test_says_when_it_is_ready_and_where(node):
    ready = re.search(r"^kvstore node ready: control (\S+), data ports (\d+) (\d+), memory 64 MiB$", node.log, re.M)
    assert ready is not None, node.log
    assert ready[1] == node.address
    assert NodeAddress.parse(node.address).port > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_when_asked_to(tmp_path, number):
    with NodeProcess(tmp_path) as node, kvstore.connect(node.url) as store:
        assert store.match(np.zeros((1, 32), np.uint8)) == 0
        assert list(node.sockets.iterdir())
        node.signal(number)
        assert node.wait() == 0, node.log
        assert not list(node.sockets.iterdir())
        assert not (tmp_path / "ready").exists()
        assert "Traceback" not in node.log


def test_a_second_node_on_the_same_port_fails_at_once(node):
    second = serve_and_fail("--listen", node.address, "--memory", "64MiB")
    assert second.returncode == 1
    assert second.stderr == (
        f"kvstore serve: {node.address} is taken by another process; choose another --listen or stop it\n"
    )
    assert second.stdout == ""


def test_a_taken_data_port_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = serve_and_fail("--listen", "127.0.0.1:0", "--memory", "64MiB", "--data-port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f"data port {port}" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--listen", "0.0.0.0:0"), "can be reached from other machines"),
        (("--listen", "192.0.2.1:7400", "--insecure"), "cannot listen on 192.0.2.1:7400"),
        (("--listen", "127.0.0.1:0", "--runtime-dir", "/does/not/exist"), "/does/not/exist"),
        (("--listen", "127.0.0.1:0", "--memory", "many"), "'many' is not a size"),
        (("--listen", "nonsense"), "must be a numeric address"),
        (("--config", "/does/not/exist.toml"), "cannot be read"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(flags, complaint):
    refused = serve_and_fail(*flags)
    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


def test_settings_come_from_a_file_and_flags_win(tmp_path):
    settings = tmp_path / "kvstore.toml"
    settings.write_text('[node]\nmemory = "128MiB"\nthreads = 1\nlog_level = "debug"\n')
    with NodeProcess(tmp_path, "--config", str(settings)) as node:
        assert "memory 64 MiB" in node.log
        assert len(re.search(r"data ports ([\d ]+),", node.log)[1].split()) == 1


def test_each_session_gets_a_capability_of_its_own_and_the_next_thread(control):
    answers = [hello(control) for _ in range(4)]
    assert {len(answer.capability) for answer in answers} == {32}
    assert len({answer.capability for answer in answers}) == 4
    assert [answer.data_port for answer in answers[:2]] == [answer.data_port for answer in answers[2:]]
    assert answers[0].data_port != answers[1].data_port
    assert {answer.host_id for answer in answers} == {host_id()}
    assert all(Path(answer.local_socket).is_socket() for answer in answers)
    assert len({answer.node_id for answer in answers}) == 1


def test_a_capability_is_never_shown(control, node):
    answer = hello(control)
    assert "capability=" not in repr(answer)
    assert answer.capability.hex() not in node.log


def test_another_wire_version_is_refused_with_both_versions(control):
    with pytest.raises(VersionMismatchError, match=rf"kvstore {kvstore.__version__}.*kvstore 9\.9.*99"):
        control.hello(client_version="9.9", wire_version=99, shm=False, timeout_ms=5000)


def test_stats_and_evict(control, node):
    keys = np.arange(32 * 8, dtype=np.uint8).reshape(8, 32)
    with kvstore.connect(node.url) as store:
        assert store.put(keys, np.ones((8, BLOCK_BYTES), np.uint8)).all_ok
        before = control.stats(timeout_ms=5000)
        assert before.counters["blocks"] == 8
        assert before.counters["used_bytes"] >= 8 * BLOCK_BYTES
        assert control.evict(2 * BLOCK_BYTES, timeout_ms=5000) >= 2 * BLOCK_BYTES
        assert store.match(keys) == 6
        assert control.evict(1 << 40, timeout_ms=5000) >= 6 * BLOCK_BYTES
        assert not store.exists(keys).any()
    after = control.stats(timeout_ms=5000)
    assert after.counters["blocks"] == 0
    assert after.uptime_ms >= before.uptime_ms
    with pytest.raises(InvalidArgumentError, match="number of bytes"):
        control.evict(0, timeout_ms=5000)


def test_pin_and_unpin(control, node):
    keys = np.arange(32 * 8, dtype=np.uint8).reshape(8, 32)
    with kvstore.connect(node.url) as store:
        assert store.put(keys, np.ones((8, BLOCK_BYTES), np.uint8)).all_ok
    pinned = keys[:2].tobytes()
    assert control.pin(pinned, "operator", 60_000, timeout_ms=5000) == bytes([Status.OK] * 2)
    control.evict(1 << 40, timeout_ms=5000)
    assert control.stats(timeout_ms=5000).counters["blocks"] == 2
    assert control.pin(keys[:3].tobytes(), "operator", 0, timeout_ms=5000)[:2] == bytes([Status.OK] * 2)
    control.evict(1 << 40, timeout_ms=5000)
    assert control.stats(timeout_ms=5000).counters["blocks"] == 0


@pytest.mark.parametrize(
    ("keys", "owner", "ttl_ms"),
    [
        (b"", "operator", 1),
        (bytes(31), "operator", 1),
        (bytes(33), "operator", 1),
        (bytes(32 * (PIN_KEYS_MAX + 1)), "operator", 1),
        (bytes(32), "", 1),
        (bytes(32), "é" * 128, 1),
        (bytes(32), "operator", 1 << 63),
    ],
)
def test_pins_out_of_bounds_are_refused(control, keys, owner, ttl_ms):
    with pytest.raises(InvalidArgumentError, match="pin needs 1 to 4096 keys"):
        control.pin(keys, owner, ttl_ms, timeout_ms=5000)


def test_flush_without_a_disk_or_without_a_deadline(control, node):
    flushed = control.flush(timeout_ms=5000)
    assert (flushed.durable, flushed.node_id) == (False, hello(control).node_id)
    with grpc.insecure_channel(node.address) as channel, pytest.raises(grpc.RpcError) as raised:
        control_pb2_grpc.ControlStub(channel).Flush(control_pb2.FlushRequest())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_and_reflection(node):
    with grpc.insecure_channel(node.address) as channel:
        for name in ("", "kvstore.v1.Control"):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=5)
        assert "kvstore.v1.Control" in {service.name for service in answer.list_services_response.service}


def test_strangers_on_every_port_disturb_nobody(control, node):
    random = np.random.default_rng(1)
    keys = random.integers(0, 256, (4, 32), dtype=np.uint8)
    blocks = random.integers(0, 256, (4, BLOCK_BYTES), dtype=np.uint8)
    host, control_port = node.address.split(":")
    ports = {int(control_port), *(hello(control).data_port for _ in range(2))}
    sockets = {hello(control).local_socket for _ in range(2)}
    for lane in ("mapped", "tcp"):
        with kvstore.connect(node.url, lane=lane) as store:
            assert store.put(keys, blocks).all_ok
            for _ in range(10):
                for port in ports:
                    socket.create_connection((host, port), timeout=5).close()
                    with socket.create_connection((host, port), timeout=5) as stranger:
                        stranger.sendall(random.bytes(4096))
                for path in sockets:
                    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                        stranger.settimeout(5)
                        stranger.connect(path)
                        stranger.send(random.bytes(64))
                received = np.zeros_like(blocks)
                assert store.get(keys, received).all_ok
                assert (received == blocks).all()
            assert store.stats()["client"]["connected"]
    wait_until(lambda: control.stats(timeout_ms=5000).counters["protocol_errors"] >= 40, "strangers are counted")


def test_an_idle_stranger_does_not_hold_up_the_end(node):
    host, port = node.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5):
        assert node.stop() == 0


def test_generated_messages_are_those_of_the_proto_file():
    declared = set()
    message = ""
    for line in PROTO.read_text().splitlines():
        if opened := re.match(r"message (\w+)", line):
            message = opened[1]
        elif field := re.match(r"\s+(?:map<.+>|\w+) (\w+) = (\d+);", line):
            declared.add((message, field[1], int(field[2])))
    generated = {
        (message.name, field.name, field.number)
        for message in control_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert declared == generated
    service = control_pb2.DESCRIPTOR.services_by_name["Control"]
    assert re.findall(r"rpc (\w+)", PROTO.read_text()) == [method.name for method in service.methods]
