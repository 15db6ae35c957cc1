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

class Commit:
    """What the catalog of a disk has to take over in one step, after the bytes behind it were synced."""

    @property
    def id(self) -> int: ...
    @property
    def operations(self) -> list[tuple[bytes, bytes | None]]:
        """(key, value) to put, (key, None) to delete, to be applied in this order; at most 4,096."""

class Node:
    """The data plane of one storage node: arena, block store, disks and data threads.

    Construction takes memory, extent files and listeners. With disks, `recover` and `finish_recovery` come next; then
    `start` begins to serve, until `stop`; `close` gives everything back. `disks` is (directory, bytes, id of 16 bytes,
    bytes that it had when it was open last or 0) of each; without any, blocks are in memory only. `admission` (which
    blocks go to disk) is "eager", "after-first-reuse" or "off"; `disk_io` is "auto", "io_uring" or "threads"; pins may
    hold `pin_share_percent` of each tier.

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
        disks: list[tuple[str, int, bytes, int]] = ...,
        admission: str = "eager",
        disk_io: str = "auto",
        pin_share_percent: int = 50,
    ) -> None: ...
    def disk_damage(self, disk: int) -> list[str]:
        """A line for each extent file that was missing, truncated or damaged; each is whole again."""
    def recover(self, disk: int, items: list[tuple[bytes, bytes]]) -> None:
        """Gives back rows of the disk's catalog as they were committed, in any order, before `start`."""
    def finish_recovery(self) -> list[list[tuple[str, bytes]]]:
        """(why, catalog key) of the rows of each disk that cannot be used, to be deleted from its catalog.

        `why` is "malformed", "overlaps", "outside", "lost", "expired" or "duplicate".
        """
    def damage_handled(self, disk: int) -> None:
        """The rows that the damage made unusable are out of the catalog: it is not reported again. Raises `OSError`."""
    def disk_trouble(self, disk: int) -> str:
        """What went wrong last; empty while the disk is healthy."""
    def start(self) -> None:
        """Starts the data threads and write-back."""
    def next_commit(self, disk: int, timeout_ms: int) -> Commit | None:
        """Waits for the disk's next commit; None when there is none in time, or the node is stopped.

        For one thread a disk, which finishes each commit before it asks for the next.
        """
    def finish_commit(self, disk: int, commit_id: int, error: str) -> None:
        """Empty `error`: the commit is in the catalog and synced. Otherwise it comes again later."""
    def flush(self, timeout_ms: int) -> bool:
        """Whether everything acknowledged so far became durable in time; needs the commits to be carried out."""
    def pin(self, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int = 2000) -> bytes:
        """Pins the blocks with these keys (32 bytes each) for `owner`, or with `ttl_ms` 0 ends its pins.

        Waits for the disk to keep the pins. Returns a status byte for each: OK, MISS, BUSY (over the share of pins) or
        NOT_DURABLE.
        """
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
    def stop_serving(self) -> None:
        """Ends every session, so that nothing is acknowledged any more; write-back goes on. Idempotent."""
    def stop(self) -> None:
        """Drops every session, joins the data threads, unlinks the sockets; the last rows may still be committed.

        Idempotent.
        """
    def close(self) -> None:
        """As `stop`, then gives back memory and disks; nothing else may be called afterwards. Idempotent."""

class Client:
    """One session with one node: batches, deadlines, completions. Thread-safe. A fresh client is detached: every
    operation then ends at once with status UNAVAILABLE, until `attach` succeeds."""

    def __init__(self, *, spin_us: int, max_block_bytes: int) -> None: ...
    def attach(
        self, *, lane: str, host: str, port: int, address: bytes, socket: str, token: bytes, timeout_ms: int
    ) -> str:
        """Opens a session over `lane`: "mapped" (same host, through `socket`), or over UCX, "shm", "tcp", "rdma" or
        "rdma-over-tcp", to the worker at `address` by the network interface that leads to `host` (numeric).
        `port` is the TCP port behind `address`.

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
    def put(
        self, keys: Any, buffers: Any, *, ttl_ms: int, durable: bool, first_depth: int, timeout_ms: int
    ) -> StatusArray: ...
    def get(self, keys: Any, buffers: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> StatusArray: ...
    def match(self, keys: Any, *, timeout_ms: int) -> int: ...
    def exists(self, keys: Any, *, timeout_ms: int) -> StatusArray: ...
    def touch(self, keys: Any, *, ttl_ms: int | None, first_depth: int, timeout_ms: int) -> StatusArray: ...
    def delete(self, keys: Any, *, timeout_ms: int) -> StatusArray: ...
    def borrow(self, keys: Any, *, wait_ms: int, first_depth: int, timeout_ms: int) -> Borrow: ...
    # Submissions return a ticket at once; its result comes from `drain` after `completion_fd` became readable.
    def submit_put(
        self, keys: Any, buffers: Any, *, ttl_ms: int, durable: bool, first_depth: int, timeout_ms: int
    ) -> int: ...
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

class DiskFigures:
    """What a disk did at one load: `bytes` moved in `seconds`, and the seconds of each block."""

    @property
    def bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def block_seconds(self) -> list[float]: ...

class DiskBounds:
    """What a disk can do without the store (native/src/bench/disk_bounds.h): a file in `directory`, O_DIRECT, io_uring.

    Blocks are written from `source` and read into `target`, which begin on pages. For the thread that made it. Raises
    `OSError` where the file system refuses O_DIRECT, space or io_uring, and when a transfer fails.
    """

    def __init__(
        self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], directory: str, file_bytes: int
    ) -> None: ...
    def measure(self, verb: str, block_bytes: int, depth: int, budget_ms: int) -> DiskFigures:
        """Moves blocks for about `budget_ms`, `depth` under way without pause; `verb` is "read" or "write"."""

class DiskCheck:
    """Whether the catalog of a disk that nobody uses is true (native/src/store/disk_check.h). Looking changes nothing.

    `add` every row, then `plan`, then `read` until it says True. `disk_id` and `remembered_bytes` are those of
    kvstore-disk.json. Raises `OSError`, `ConnectionError` or `ValueError` for extent files that cannot be read, are of
    another disk or of a newer version. For one thread.
    """

    def __init__(self, directory: str, disk_id: bytes, remembered_bytes: int) -> None: ...
    @property
    def capacity_bytes(self) -> int:
        """Size of the disk; 0 if it was never used."""
    @property
    def damage(self) -> list[str]:
        """A line for each extent file that is missing, truncated or has a damaged header."""
    def add(self, items: list[tuple[bytes, bytes]]) -> None: ...
    def plan(self) -> int:
        """Looks at the rows together; returns how many bytes of blocks there are to read."""
    def read(self, budget_ms: int) -> bool:
        """Reads and sums blocks for about this long; True when there are no more."""
    @property
    def bytes_read(self) -> int: ...
    @property
    def sound_blocks(self) -> int: ...
    @property
    def sound_bytes(self) -> int: ...
    @property
    def sound_pins(self) -> int: ...
    @property
    def findings(self) -> list[tuple[str, bytes, int]]:
        """(why, catalog key, bytes of the block) of each row that must go.

        `why` is "malformed", "outside", "overlaps", "lost", "corrupt", "unreadable" or "orphaned" (a pin of no block).
        """
    def repair_extents(self) -> None:
        """Makes missing and truncated extent files whole again, after the rows lost with them were deleted."""

class Replayer:
    """Replays a trace of requests against the node's eviction policies (native/src/bench/replay.h).

    `blocks` (references,) uint32 are the chains of the requests one after the other, `lengths` (requests,) uint32 how
    many blocks each has. Blocks are numbered in the order in which they first appear, and always follow the same one.
    Raises `ValueError` if they do not. Thread-safe.
    """

    def __init__(self, blocks: npt.NDArray[np.uint32], lengths: npt.NDArray[np.uint32]) -> None: ...
    def replay(self, *, policy: str, capacity_blocks: int, as_engines: bool = False) -> dict[str, int]:
        """`references`, `usable_hits`, `operations`, `policy_ns`, and at the end `policy_bytes` and `blocks_held`.

        With `as_engines` a request is two for the store, one that reads and one that writes, as engines have it.
        Raises `ValueError` for an unknown policy, or a capacity below the longest request.
        """
    def belady_hits(self, *, capacity_blocks: int) -> int:
        """The most usable hits that are possible."""
    @staticmethod
    def policies() -> list[str]: ...
