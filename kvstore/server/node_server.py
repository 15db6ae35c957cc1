"""Assembly of a storage node, from its settings to open ports, and back."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kvstore.config import NodeConfig, format_bytes
from kvstore.errors import ConfigError
from kvstore.proto.v1 import control_pb2, control_pb2_grpc
from kvstore.server.control_service import ControlService
from kvstore.server.data_plane import DataPlane
from kvstore.server.tenants import load_tenants
from kvstore.transport.address import NodeAddress

__all__ = ["NodeServer"]

_CONTROL_SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"].full_name
_SHUTDOWN_GRACE_S = 1.0
_OPTIONS = (
    # Otherwise two nodes would share a port, and each client would meet one of them by chance.
    ("grpc.so_reuseport", 0),
    # The largest request of the control plane, a pin of 4,096 keys, has little more than 128 KiB.
    ("grpc.max_receive_message_length", 192 << 10),
    ("grpc.max_concurrent_streams", 256),
)


class NodeServer:
    """A storage node of this process, running inside `async with`. Raises `ConfigError` for what cannot be had.

    The control port is taken first, so that a node that cannot listen fails before it takes memory, and answers last,
    when the node knows what its disks hold.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.address = NodeAddress(config.listen_host, config.listen_port)
        self._planes: list[DataPlane] = []
        self.metrics_address: NodeAddress | None = None
        self._open = AsyncExitStack()

    async def __aenter__(self) -> NodeServer:
        async with AsyncExitStack() as opened:
            server = grpc.aio.server(options=_OPTIONS)
            opened.push_async_callback(server.stop, None)
            self.address = NodeAddress(self.address.host, _bind(server, self.address))
            tenants = load_tenants(self.config)
            runtime_dir = _make_runtime_dir(self.config.runtime_dir)
            opened.callback(shutil.rmtree, runtime_dir, ignore_errors=True)
            opened.push_async_callback(self._stop_data_planes)
            for number, tenant in enumerate(tenants):
                plane = await asyncio.to_thread(DataPlane, tenant, os.path.join(runtime_dir, str(number)))
                self._planes.append(plane)
            for plane in self._planes:
                await asyncio.to_thread(plane.start)
            self._serve_metrics(opened)
            await self._start_control_plane(server, opened)
            self._open = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def describe(self) -> str:
        """One line: where it listens, how much memory and disk it has, for how many tenants."""
        config = self.config
        ports = " ".join(str(port) for plane in self._planes for port, *_ in plane.node.endpoints())
        tenants = f", {len(self._planes)} tenants" if config.tenants else ""
        disk = f", disk {format_bytes(config.disk_bytes)} in {config.disk}" if config.disks else ""
        metrics = f", metrics http://{self.metrics_address}/metrics" if self.metrics_address else ""
        memory = f"memory {format_bytes(config.memory_bytes)}"
        return f"control {self.address}, data ports {ports}, {memory}{disk}{tenants}{metrics}"

    async def _stop_data_planes(self) -> None:
        """All at once: each may flush for as long as `shutdown_flush_ms`."""
        planes, self._planes = self._planes, []
        async with asyncio.TaskGroup() as stopping:
            for plane in planes:
                stopping.create_task(asyncio.to_thread(plane.stop))

    def _serve_metrics(self, opened: AsyncExitStack) -> None:
        if self.config.metrics_address is None:
            return
        from kvstore.server.metrics import serve_metrics  # some MiB that other nodes do without

        serving = ExitStack()
        nodes = {plane.tenant.name: plane.node for plane in self._planes}
        self.metrics_address = serve_metrics(nodes, NodeAddress(*self.config.metrics_address), serving)
        opened.push_async_callback(asyncio.to_thread, serving.close)

    async def _start_control_plane(self, server: grpc.aio.Server, opened: AsyncExitStack) -> None:
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(self._planes, self.config), server)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        reflection.enable_server_reflection((_CONTROL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        for name in (health.OVERALL_HEALTH, _CONTROL_SERVICE):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        opened.push_async_callback(server.stop, _SHUTDOWN_GRACE_S)
        opened.push_async_callback(checks.enter_graceful_shutdown)


def _bind(server: grpc.aio.Server, address: NodeAddress) -> int:
    """Takes the control port; returns the real one where 0 was asked for."""
    # gRPC has one message for everything, and prints more of its own: the usual reasons are found out beforehand.
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"{address} is taken by another process; choose another --listen or stop it"
                ) from error
            raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
    try:
        return server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from error


def _make_runtime_dir(parent: str) -> str:
    """A private directory (mode 0700) of this node alone, so that nodes may share `runtime_dir`."""
    try:
        return tempfile.mkdtemp(prefix="kvstore-node-", dir=parent or None)
    except OSError as error:
        raise ConfigError(
            f"no directory for sockets can be made in runtime_dir {parent!r}: {error.strerror}"
        ) from error
