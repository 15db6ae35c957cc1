import grpc
import grpc.aio

from kvstore.proto.v1.control_pb2 import (
    EvictRequest,
    EvictResponse,
    FlushRequest,
    FlushResponse,
    HelloRequest,
    HelloResponse,
    PinRequest,
    PinResponse,
    StatsRequest,
    StatsResponse,
)

class ControlStub:
    """Client side, over a synchronous channel."""

    Hello: grpc.UnaryUnaryMultiCallable[HelloRequest, HelloResponse]
    Stats: grpc.UnaryUnaryMultiCallable[StatsRequest, StatsResponse]
    Evict: grpc.UnaryUnaryMultiCallable[EvictRequest, EvictResponse]
    Flush: grpc.UnaryUnaryMultiCallable[FlushRequest, FlushResponse]
    Pin: grpc.UnaryUnaryMultiCallable[PinRequest, PinResponse]
    def __init__(self, channel: grpc.Channel) -> None: ...

class ControlServicer:
    """Server side, for an asyncio server."""

    async def Hello(
        self, request: HelloRequest, context: grpc.aio.ServicerContext[HelloRequest, HelloResponse]
    ) -> HelloResponse: ...
    async def Stats(
        self, request: StatsRequest, context: grpc.aio.ServicerContext[StatsRequest, StatsResponse]
    ) -> StatsResponse: ...
    async def Evict(
        self, request: EvictRequest, context: grpc.aio.ServicerContext[EvictRequest, EvictResponse]
    ) -> EvictResponse: ...
    async def Flush(
        self, request: FlushRequest, context: grpc.aio.ServicerContext[FlushRequest, FlushResponse]
    ) -> FlushResponse: ...
    async def Pin(
        self, request: PinRequest, context: grpc.aio.ServicerContext[PinRequest, PinResponse]
    ) -> PinResponse: ...

def add_ControlServicer_to_server(servicer: ControlServicer, server: grpc.aio.Server) -> None: ...
