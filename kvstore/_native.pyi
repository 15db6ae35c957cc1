"""The native core. Bytes are moved here, never in Python; every call releases the GIL while it works or waits.

Statuses are `uint8` arrays of the numbers in `kvstore.Status` (native/src/base/status.h). Keys are C-contiguous
`(n, 32)` uint8 arrays. Buffers are a sequence with one entry a block, each entry one buffer (buffer protocol or CPU
DLPack, C-contiguous) or a list of them (scatter/gather); or one C-contiguous array whose first axis has length n. A
buffer is held until the native core has finished with it, which for a timed-out put may be after the call returned.

Wrong arguments raise `ValueError` (shape, length, contiguity, limits) or `TypeError`, before anything is sent.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

StatusArray: TypeAlias = npt.NDArray[np.uint8]

WIRE_VERSION: Final[int]  # kWireVersion of native/src/wire/frame.h; node and client must agree on it

class Node:
    """The data plane of one storage node: arena, block store and data threads, running from construction to `stop`.

    `host` is a numeric address that the data threads listen on; `data_port` 0 picks free ports, otherwise thread i
    takes `data_port + i`. `runtime_dir` is an existing private directory for the Unix sockets of the same-host channel.
    Raises `OSError` when an address or the memory cannot be had.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        max_block_bytes: int,
        host: str,
        data_port: int,
        threads: int,
        runtime_dir: str,
        spin_us: int,
        network: bool = True,
        rdma_transports: str = "",
        huge_pages: bool = True,
        prefault: bool = False,
    ) -> None: ...
    def endpoints(self) -> list[tuple[int, bytes, bytes, str]]:
        """(TCP port, UCX address, UCX address of the RDMA lane, path of the Unix socket) of each data thread.

        The port is 0 without network; the addresses are empty where there is no such lane.
        """
    def open_shm(self, thread: int) -> bytes:
        """UCX address of a shared-memory lane, made for one session on data thread `thread`.

        It goes away if no session begins there within 10 s. Raises `ConnectionError` when there are too many.
        """
    def grant(self, token: bytes, verbs: int, ttl_ms: int) -> None:
        """Accepts `token` (32 bytes) as the first data-plane message of a session that starts within `ttl_ms`.

        `verbs` is a bit set: 1 read, 2 write, 4 delete.
        """
    def stats(self) -> dict[str, int]: ...
    def evict(self, bytes: int) -> int:
        """Evicts blocks in policy order until `bytes` are freed or nothing more can go; returns the bytes freed."""
    def stop(self) -> None:
        """Drops every session, joins the threads, unlinks the sockets. Idempotent."""

class Client:
    """One session with one node: batches, deadlines, completions. Thread-safe. A fresh client is detached: every
    operation then ends at once with status UNAVAILABLE, until `attach` succeeds."""

    def __init__(self, *, spin_us: int, max_block_bytes: int) -> None: ...
    def attach(self, *, lane: str, host: str, address: bytes, socket: str, token: bytes, timeout_ms: int) -> str:
        """Opens a session over `lane`: "mapped" (same host, through `socket`), or over UCX, "shm", "tcp", "rdma" or
        "rdma-over-tcp", to the worker at `address` by the network interface that leads to `host` (numeric).

        Returns what was really chosen: "mapped", or the UCX transports, such as "tcp/lo" or "posix/memory cma/memory".
        Replaces a session that was lost. Raises `ConnectionError` or `TimeoutError`.
        """
    @property
    def attached(self) -> bool: ...
    def wait_detached(self, timeout_ms: int) -> bool:
        """Blocks until the session is lost or closed, or the timeout passes; True if there is no session now."""
    def close(self) -> None:
        """Ends the session, fails what is pending as UNAVAILABLE and refuses further operations (ValueError).
        Borrowed views stay readable until released. Idempotent."""
    def put(self, keys: Any, buffers: Any, *, ttl_ms: int, first_depth: int, timeout_ms: int) -> StatusArray: ...
    def get(self, keys: Any, buffers: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> StatusArray: ...
    def match(self, keys: Any, *, timeout_ms: int) -> int: ...
    def exists(self, keys: Any, *, timeout_ms: int) -> StatusArray: ...
    def touch(self, keys: Any, *, ttl_ms: int | None, first_depth: int, timeout_ms: int) -> StatusArray: ...
    def delete(self, keys: Any, *, timeout_ms: int) -> StatusArray: ...
    def borrow(self, keys: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> Borrow: ...
    # Submissions return a ticket at once; its result comes from `drain` after `completion_fd` became readable.
    def submit_put(self, keys: Any, buffers: Any, *, ttl_ms: int, first_depth: int, timeout_ms: int) -> int: ...
    def submit_get(self, keys: Any, buffers: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> int: ...
    def submit_match(self, keys: Any, *, timeout_ms: int) -> int: ...
    def submit_exists(self, keys: Any, *, timeout_ms: int) -> int: ...
    def submit_touch(self, keys: Any, *, ttl_ms: int | None, first_depth: int, timeout_ms: int) -> int: ...
    def submit_delete(self, keys: Any, *, timeout_ms: int) -> int: ...
    def submit_borrow(self, keys: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> int: ...
    @property
    def completion_fd(self) -> int: ...
    def drain(self) -> list[tuple[int, StatusArray | int | Borrow]]:
        """Results that are ready: (ticket, what the sync twin returns). Never blocks; resets `completion_fd`."""
    def stats(self) -> dict[str, int]: ...

class Borrow:
    """Blocks held by lease (mapped lane) or received into memory of its own (network lanes), until `release`."""

    @property
    def statuses(self) -> StatusArray: ...
    @property
    def views(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """One read-only array a key; None where the status is not OK."""
    def release(self) -> None:
        """Idempotent. The arrays must not be used afterwards."""

def crc32c(data: Any, crc: int = 0) -> int: ...
def crc32c_implementation() -> str: ...
def ucx_version() -> str: ...

class Bounds:
    """What the machine can do without the store (native/src/bench/bounds.h), between two arrays of equal length.

    Methods return the seconds of each batch of `depth` blocks and release the GIL.
    """

    def __init__(self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None: ...
    def copy(self, kind: str, block_bytes: int, depth: int, budget_ms: int) -> list[float]:
        """Copies blocks from source to target; `kind` is "memcpy" or "streaming"."""
    def socket(self, verb: str, block_bytes: int, depth: int, budget_ms: int, *, apart: bool) -> list[float]:
        """Moves blocks over a TCP connection on loopback; `verb` is "get" or "put", `apart` gives each thread a core.

        Raises `OSError` if the connection fails or does not move.
        """
