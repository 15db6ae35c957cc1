"""The node's side of the control plane."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import grpc
import grpc.aio

from kvstore import __version__
from kvstore.config import NodeConfig, format_bytes
from kvstore.proto.v1 import control_pb2, control_pb2_grpc
from kvstore.server.data_plane import DataPlane
from kvstore.server.tenants import find_tenant
from kvstore.transport import native
from kvstore.transport.capability import ALL_VERBS
from kvstore.transport.control import PIN_KEYS_MAX, PIN_OWNER_BYTES_MAX, PIN_TTL_MS_MAX
from kvstore.transport.deadline import Deadline
from kvstore.transport.entropy import new_id, new_token
from kvstore.transport.lanes import host_id
from kvstore.transport.tenant_token import METADATA_KEY, token_of

__all__ = ["ControlService"]

_log = logging.getLogger("kvstore.server")

_KEY_BYTES: Final = 32  # as kvstore.keys says, which needs numpy
_DISK_WAITS_MAX: Final = 4  # calls that wait for a disk at once; more wait for their turn within their deadline
_DISK_WAIT_MS_MAX: Final = 600_000
_DISK_WAIT_SHARE: Final = 0.9  # of the caller's time, so that a "no" still reaches it


class ControlService(control_pb2_grpc.ControlServicer):
    """Answers for the data plane of the caller's tenant. Sessions are spread over its data threads in turn."""

    def __init__(self, planes: Sequence[DataPlane], config: NodeConfig) -> None:
        self._planes = {plane.tenant.name: plane for plane in planes}
        self._tenants = [plane.tenant for plane in planes]
        self._config = config
        self._node_id = new_id()
        self._host_id = host_id()
        self._endpoints = {plane.tenant.name: itertools.cycle(enumerate(plane.node.endpoints())) for plane in planes}
        self._started_s = time.monotonic()
        # Callers may have all of these threads wait; nothing else must wait behind those.
        self._disk_waits = ThreadPoolExecutor(_DISK_WAITS_MAX, thread_name_prefix="kvstore disk wait")

    async def Hello(
        self,
        request: control_pb2.HelloRequest,
        context: grpc.aio.ServicerContext[control_pb2.HelloRequest, control_pb2.HelloResponse],
    ) -> control_pb2.HelloResponse:
        wire_version = native().WIRE_VERSION
        if request.wire_version != wire_version:
            mine, theirs = __version__, request.client_version or "of unknown version"
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the node (kvstore {mine}) speaks wire version {wire_version}, the client (kvstore {theirs}) "
                f"{request.wire_version}; install the same kvstore on both",
            )
        plane = await self._plane(context)
        token = new_token()
        plane.node.grant(token, ALL_VERBS, self._config.capability_ttl_ms)
        thread, (data_port, data_address, rdma_address, local_socket) = next(self._endpoints[plane.tenant.name])
        if request.shm:
            data_address = await _open_shm(plane, thread, context)
        _log.debug("hello from %s, kvstore %s %s", context.peer(), request.client_version, plane.tenant.name)
        return control_pb2.HelloResponse(
            node_version=__version__,
            wire_version=wire_version,
            node_id=self._node_id,
            capability=token,
            capability_ttl_ms=self._config.capability_ttl_ms,
            data_address=data_address,
            rdma_address=rdma_address,
            data_port=data_port,
            local_socket=local_socket,
            host_id=self._host_id,
            max_block_bytes=self._config.max_block_bytes,
        )

    async def Stats(
        self,
        request: control_pb2.StatsRequest,
        context: grpc.aio.ServicerContext[control_pb2.StatsRequest, control_pb2.StatsResponse],
    ) -> control_pb2.StatsResponse:
        return control_pb2.StatsResponse(
            counters=(await self._plane(context)).node.stats(),
            node_id=self._node_id,
            node_version=__version__,
            uptime_ms=round((time.monotonic() - self._started_s) * 1000),
        )

    async def Evict(
        self,
        request: control_pb2.EvictRequest,
        context: grpc.aio.ServicerContext[control_pb2.EvictRequest, control_pb2.EvictResponse],
    ) -> control_pb2.EvictResponse:
        if request.bytes == 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "evict needs a number of bytes above 0")
        # In a thread of its own: evicting gigabytes takes long enough to keep others waiting.
        plane = await self._plane(context)
        bytes_freed = await asyncio.to_thread(plane.node.evict, request.bytes)
        _log.info("evicted %s on request of %s", format_bytes(bytes_freed), context.peer())
        return control_pb2.EvictResponse(bytes_freed=bytes_freed)

    async def Flush(
        self,
        request: control_pb2.FlushRequest,
        context: grpc.aio.ServicerContext[control_pb2.FlushRequest, control_pb2.FlushResponse],
    ) -> control_pb2.FlushResponse:
        plane = await self._plane(context)
        deadline = await _deadline(context)
        durable = await asyncio.get_running_loop().run_in_executor(
            self._disk_waits, lambda: plane.node.flush(deadline.left_ms())
        )
        return control_pb2.FlushResponse(durable=durable, node_id=self._node_id)

    async def Pin(
        self,
        request: control_pb2.PinRequest,
        context: grpc.aio.ServicerContext[control_pb2.PinRequest, control_pb2.PinResponse],
    ) -> control_pb2.PinResponse:
        owner_bytes = len(request.owner.encode())
        whole = len(request.keys) % _KEY_BYTES == 0 and 0 < len(request.keys) <= PIN_KEYS_MAX * _KEY_BYTES
        if not whole or not 0 < owner_bytes <= PIN_OWNER_BYTES_MAX or request.ttl_ms > PIN_TTL_MS_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"pin needs 1 to {PIN_KEYS_MAX} keys of {_KEY_BYTES} bytes, an owner of 1 to {PIN_OWNER_BYTES_MAX}"
                f" bytes and a ttl_ms of at most {PIN_TTL_MS_MAX}",
            )
        plane = await self._plane(context)
        deadline = await _deadline(context)
        statuses = await asyncio.get_running_loop().run_in_executor(
            self._disk_waits, lambda: plane.node.pin(request.keys, request.owner, request.ttl_ms, deadline.left_ms())
        )
        return control_pb2.PinResponse(statuses=statuses)

    async def _plane(self, context: grpc.aio.ServicerContext[Any, Any]) -> DataPlane:
        """The caller's data plane. Who the caller is, its token says and nothing in the request."""
        sent = dict(context.invocation_metadata() or ()).get(METADATA_KEY, "")
        tenant = find_tenant(self._tenants, token_of(sent if isinstance(sent, str) else ""))
        if tenant is None:
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "this node serves tenants, and the token is none of theirs: set token_file to a file with a token",
            )
        return self._planes[tenant.name]


async def _open_shm(
    plane: DataPlane,
    thread: int,
    context: grpc.aio.ServicerContext[control_pb2.HelloRequest, control_pb2.HelloResponse],
) -> bytes:
    try:
        return await asyncio.to_thread(plane.node.open_shm, thread)
    except OSError as error:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))


async def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> Deadline:
    """When a call that may wait for a disk has to be answered."""
    left_s = cast(float | None, context.time_remaining())  # None without one, whatever its type says
    if left_s is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this call may wait for a disk: it needs a deadline")
    return Deadline(min(_DISK_WAIT_MS_MAX, round(left_s * 1000 * _DISK_WAIT_SHARE)))
