"""The client's side of the control plane: what is not about bytes of blocks, over gRPC, each call with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import grpc

from kvstore.errors import ConfigError, ConnectError, InvalidArgumentError, KVStoreError, VersionMismatchError
from kvstore.proto.v1 import control_pb2, control_pb2_grpc
from kvstore.transport.address import NodeAddress
from kvstore.transport.fork import keep_forever
from kvstore.transport.tenant_token import METADATA_KEY, bearer

__all__ = [
    "PIN_KEYS_MAX",
    "PIN_OWNER_BYTES_MAX",
    "PIN_TTL_MS_MAX",
    "ControlPlane",
    "Flushed",
    "Hello",
    "NodeStats",
]

PIN_KEYS_MAX: Final = 4096
"""In one message."""
PIN_OWNER_BYTES_MAX: Final = 255
PIN_TTL_MS_MAX: Final = 100 * 365 * 24 * 3600 * 1000

Request = TypeVar("Request")
Response = TypeVar("Response")

_CHANNEL_OPTIONS = (
    # A node is reached directly: a proxy meant for the web would take loopback traffic, too.
    ("grpc.enable_http_proxy", 0),
    # Channels with one address would share one connection and its back-off, also after it was found dead.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Hello:
    """A node's answer to hello; proto/kvstore/v1/control.proto says what each field means."""

    node_id: str
    node_version: str
    capability: bytes = field(repr=False)
    data_address: bytes = field(repr=False)
    rdma_address: bytes = field(repr=False)
    data_port: int
    local_socket: str
    host_id: str
    max_block_bytes: int


@dataclass(frozen=True)
class NodeStats:
    """What a node has counted since it was started."""

    node_id: str
    node_version: str
    uptime_ms: int
    counters: dict[str, int]


@dataclass(frozen=True)
class Flushed:
    """Whether everything that this start of the node has acknowledged is durable."""

    node_id: str
    durable: bool


class ControlPlane:
    """Calls on one node's control plane. Thread-safe. A call that fails drops the connection; the next dials anew.

    `token` says on whose behalf, where the node has tenants.
    """

    def __init__(self, address: NodeAddress, token: str = "") -> None:
        self.address = address
        self._metadata = ((METADATA_KEY, bearer(token)),) if token else ()
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closed = False

    def hello(self, *, client_version: str, wire_version: int, shm: bool, timeout_ms: int) -> Hello:
        """Asks for a session. Raises `ConnectError`, or `VersionMismatchError` when the node speaks another version."""
        request = control_pb2.HelloRequest(client_version=client_version, wire_version=wire_version, shm=shm)
        answer = self._call(lambda stub: stub.Hello, request, timeout_ms)
        return Hello(
            node_id=answer.node_id,
            node_version=answer.node_version,
            capability=answer.capability,
            data_address=answer.data_address,
            rdma_address=answer.rdma_address,
            data_port=answer.data_port,
            local_socket=answer.local_socket,
            host_id=answer.host_id,
            max_block_bytes=answer.max_block_bytes,
        )

    def stats(self, *, timeout_ms: int) -> NodeStats:
        """Raises `ConnectError`."""
        answer = self._call(lambda stub: stub.Stats, control_pb2.StatsRequest(), timeout_ms)
        return NodeStats(answer.node_id, answer.node_version, answer.uptime_ms, dict(answer.counters))

    def evict(self, count_bytes: int, *, timeout_ms: int) -> int:
        """Has the node evict blocks until `count_bytes` are free or nothing more can go; returns the bytes freed."""
        request = control_pb2.EvictRequest(bytes=count_bytes)
        return self._call(lambda stub: stub.Evict, request, timeout_ms).bytes_freed

    def flush(self, *, timeout_ms: int) -> Flushed:
        """Has everything made durable that the node has acknowledged. Raises `ConnectError`."""
        answer = self._call(lambda stub: stub.Flush, control_pb2.FlushRequest(), timeout_ms)
        return Flushed(answer.node_id, answer.durable)

    def pin(self, keys: bytes, owner: str, ttl_ms: int, *, timeout_ms: int) -> bytes:
        """Pins the blocks with these keys (32 bytes each, `PIN_KEYS_MAX` at most); `ttl_ms` 0 ends the owner's pins.

        Returns a status byte for each. Raises `ConnectError`, or `InvalidArgumentError` for what the node refuses.
        """
        request = control_pb2.PinRequest(keys=keys, owner=owner, ttl_ms=ttl_ms)
        return self._call(lambda stub: stub.Pin, request, timeout_ms).statuses

    def close(self) -> None:
        """Ends calls that are under way with `ConnectError`. Idempotent."""
        with self._lock:
            self._closed = True
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def abandon(self) -> None:
        """In a forked child: see `kvstore.transport.fork`."""
        keep_forever(self._channel)
        self._channel = None

    def _call(
        self,
        verb: Callable[[control_pb2_grpc.ControlStub], grpc.UnaryUnaryMultiCallable[Request, Response]],
        request: Request,
        timeout_ms: int,
    ) -> Response:
        channel = self._open()
        try:
            return verb(control_pb2_grpc.ControlStub(channel))(
                request, timeout=timeout_ms / 1000, metadata=self._metadata
            )
        except grpc.RpcError as error:
            self._drop(channel)
            raise self._explained(error, timeout_ms) from error
        except ValueError as error:  # what grpc raises for a channel that another thread has closed
            raise ConnectError(f"the connection to {self.address} was closed") from error

    def _open(self) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise ConnectError(f"the connection to {self.address} was closed")
            if self._channel is None:
                self._channel = grpc.insecure_channel(_target(self.address), _CHANNEL_OPTIONS)
            return self._channel

    def _drop(self, channel: grpc.Channel) -> None:
        with self._lock:
            if self._channel is channel:
                self._channel = None
        channel.close()

    def _explained(self, error: grpc.RpcError, timeout_ms: int) -> KVStoreError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            return VersionMismatchError(f"{self.address} refused this client: {details}")
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidArgumentError(f"{self.address} refused the request: {details}")
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return ConfigError(f"{self.address} refused this client: {details}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ConnectError(f"{self.address} did not answer within {timeout_ms} ms")
        if code is grpc.StatusCode.UNAVAILABLE:
            return ConnectError(f"no kvstore node can be reached at {self.address} ({details})")
        return ConnectError(f"{self.address} answered {code.name}: {details}; is it a kvstore node?")


def _target(address: NodeAddress) -> str:
    if ":" in address.host:
        return f"ipv6:{address}"
    return f"ipv4:{address}" if address.host.replace(".", "").isdigit() else f"dns:///{address}"
