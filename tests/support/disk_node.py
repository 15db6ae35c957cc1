"""A node process with a disk, how it is hurt, and what its disk holds."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from kvstore.cli import fsck
from kvstore.config import ClientConfig
from tests.node_process import wait_until
from tests.support.node import Node

__all__ = ["CONFIG", "GRANULE", "MIB", "DiskNode", "assert_accounts", "assert_sound", "check_disk", "rounded"]

MIB = 1 << 20
GRANULE = 4096
# A deadline that only a hang meets, and quick to come back after a restart.
CONFIG = ClientConfig(timeout_ms=30_000, connect_timeout_ms=10_000, reconnect_backoff_ms_max=50)

_KILLED = -9
# A node that shall crash gets so long to come there.
_CRASH_TIMEOUT_S = 30.0


class DiskNode(Node):
    """`kvstore serve` with one disk in `folder`/disk, or with those in `disks`; the next start may have failpoints."""

    def __init__(
        self,
        folder: Path,
        *flags: str,
        memory: str = "16MiB",
        disk_size: str = "64MiB",
        disks: Iterable[Path] = (),
        settings: str = "",
    ) -> None:
        self.disks = tuple(disks) or (folder / "disk",)
        directories = ",".join(str(disk) for disk in self.disks)
        super().__init__(
            folder,
            *("--threads", "1", "--disk", directories, "--disk-size", disk_size, *flags),
            memory=memory,
            settings=settings,
        )

    @property
    def disk(self) -> Path:
        """The directory of the first disk."""
        return self.disks[0]

    def fail_at(self, rules: str) -> Self:
        """What the environment of the next start says of failpoints (native/src/base/failpoint.h)."""
        self.environment["KVSTORE_FAILPOINTS"] = rules
        return self

    def restart(self, rules: str = "") -> Self:
        """Without whatever failpoints it had."""
        self.fail_at(rules)
        self.start()
        return self

    def starts(self) -> bool:
        """Starts it anew; False when it ends instead of becoming ready."""
        self.launch()
        wait_until(self._is_ready_or_dead, "the node is ready", _CRASH_TIMEOUT_S)
        return self.is_running

    def wait_for_crash(self) -> None:
        """Until a failpoint has killed the node."""
        assert self._process is not None
        wait_until(lambda: not self.is_running, "the node crashes", _CRASH_TIMEOUT_S)
        assert self.wait() == _KILLED, self.log

    @property
    def warnings(self) -> list[str]:
        """Lines of the log that say that something is wrong."""
        return [line for line in self.log.splitlines() if re.match(r"\S+ (WARNING|ERROR|CRITICAL) ", line)]


def check_disk(directory: Path, *, repair: bool = False) -> dict[str, Any]:
    """What `kvstore fsck` finds on the disk of a stopped node."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = fsck.run(directory, repair=repair, as_json=True)
    assert status in {fsck.CLEAN, fsck.DAMAGED}, f"{directory} cannot be checked"
    report: dict[str, Any] = json.loads(printed.getvalue())
    return report | {"status": status}


def assert_sound(node: DiskNode) -> None:
    """The stopped node has left nothing on its disks that fsck complains of."""
    for disk in node.disks:
        report = check_disk(disk)
        assert report["clean"], json.dumps(report)


def rounded(size: int) -> int:
    """The space that a block takes."""
    return -(-size // GRANULE) * GRANULE


def assert_accounts(node: DiskNode, lengths: Iterable[int], quarantined_bytes: int = 0) -> dict[str, int]:
    """The idle node has blocks of these lengths on disk, and nothing else: to the byte, with nothing held by anybody.

    Returns all counters.
    """
    lengths = list(lengths)
    headers = len(node.disks) * GRANULE
    return node.wait_for_counters(
        "the disk holds these blocks and nothing else",
        nvme_blocks=len(lengths),
        nvme_used_bytes=headers + quarantined_bytes + sum(rounded(length) for length in lengths),
        write_queue_blocks=0,
        write_queue_bytes=0,
        reserved_bytes=0,
        leased_bytes=0,
        leases=0,
    )
