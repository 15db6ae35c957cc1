from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("client_version", "wire_version", "shm")
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHM_FIELD_NUMBER: _ClassVar[int]
    client_version: str
    wire_version: int
    shm: bool
    def __init__(self, client_version: _Optional[str] = ..., wire_version: _Optional[int] = ..., shm: bool = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("node_version", "wire_version", "node_id", "capability", "capability_ttl_ms", "data_address", "rdma_address", "data_port", "local_socket", "host_id", "max_block_bytes")
    NODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    DATA_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RDMA_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_PORT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_SOCKET_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    node_version: str
    wire_version: int
    node_id: str
    capability: bytes
    capability_ttl_ms: int
    data_address: bytes
    rdma_address: bytes
    data_port: int
    local_socket: str
    host_id: str
    max_block_bytes: int
    def __init__(self, node_version: _Optional[str] = ..., wire_version: _Optional[int] = ..., node_id: _Optional[str] = ..., capability: _Optional[bytes] = ..., capability_ttl_ms: _Optional[int] = ..., data_address: _Optional[bytes] = ..., rdma_address: _Optional[bytes] = ..., data_port: _Optional[int] = ..., local_socket: _Optional[str] = ..., host_id: _Optional[str] = ..., max_block_bytes: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("counters", "node_id", "node_version", "uptime_ms")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.ScalarMap[str, int]
    node_id: str
    node_version: str
    uptime_ms: int
    def __init__(self, counters: _Optional[_Mapping[str, int]] = ..., node_id: _Optional[str] = ..., node_version: _Optional[str] = ..., uptime_ms: _Optional[int] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("bytes_freed",)
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    bytes_freed: int
    def __init__(self, bytes_freed: _Optional[int] = ...) -> None: ...

class FlushRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushResponse(_message.Message):
    __slots__ = ("durable", "node_id")
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    durable: bool
    node_id: str
    def __init__(self, durable: bool = ..., node_id: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("keys", "owner", "ttl_ms")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    owner: str
    ttl_ms: int
    def __init__(self, keys: _Optional[bytes] = ..., owner: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class PinResponse(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: bytes
    def __init__(self, statuses: _Optional[bytes] = ...) -> None: ...
