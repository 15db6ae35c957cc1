"""A process as /proc shows it."""

from __future__ import annotations

import ipaddress
import re
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Listener",
    "descriptors",
    "is_stopped",
    "listeners",
    "memory_bytes",
    "read_region",
    "resident_bytes",
    "shared_region",
    "unix_sockets",
    "write_region",
]

_TCP_LISTEN = "0A"
_UNIX_LISTENS_FLAG = 0x10000  # __SO_ACCEPTCON


@dataclass(frozen=True)
class Listener:
    """A TCP socket that accepts connections."""

    host: str
    port: int


def is_stopped(pid: int) -> bool:
    """Whether every thread stands still: SIGSTOP reaches them one by one, and one may go on answering meanwhile."""
    # The state is the first field after the name, which ends with the last parenthesis.
    stats = [Path(task, "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def memory_bytes(pid: int, kind: str) -> int:
    """Resident memory of a kind: RssAnon (its own), RssFile (of libraries), RssShmem (shared, the arena among it)."""
    return int(_fields(pid)[kind].split()[0]) << 10


def descriptors(pid: int) -> dict[int, str]:
    """What each open descriptor is."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # closed between the two looks
            continue
    return found


def listeners(pid: int) -> set[Listener]:
    """Every TCP socket on which the process listens, whoever opened it."""
    inodes = _socket_inodes(pid)
    found = set()
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        rows = [row.split() for row in path.read_text().splitlines()[1:]] if path.exists() else []
        found |= {_listener(row[1]) for row in rows if row[3] == _TCP_LISTEN and row[9] in inodes}
    return found


def unix_sockets(pid: int) -> set[str]:
    """Paths of the Unix sockets on which the process listens; abstract ones start with @."""
    inodes = _socket_inodes(pid)
    rows = [row.split() for row in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return {row[7] for row in rows if len(row) > 7 and row[6] in inodes and int(row[3], 16) & _UNIX_LISTENS_FLAG}


def resident_bytes(pid: int, name: str) -> int:
    """Resident memory of all mappings of the memfd called `name`."""
    total, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = f"/memfd:{name}" in line
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def shared_region(pid: int, name: str) -> tuple[int, int]:
    """(address, bytes) of the first mapping of the memfd called `name`."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(f"/memfd:{name}"):
            first, end = (int(address, 16) for address in fields[0].split("-"))
            return first, end - first
    raise AssertionError(f"process {pid} maps no memfd {name}")


def read_region(pid: int, address: int, size: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        data = memory.read(size)
    assert len(data) == size
    return data


def write_region(pid: int, address: int, data: bytes) -> None:
    """Writes to the memory of a child process, as a flipped bit would, whatever protects it from its peers."""
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(address)
        assert memory.write(data) == len(data)


def _fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _socket_inodes(pid: int) -> set[str]:
    matches = (re.fullmatch(r"socket:\[(\d+)\]", target) for target in descriptors(pid).values())
    return {match[1] for match in matches if match}


def _listener(local: str) -> Listener:
    """From the kernel's notation: words of the address in the machine's byte order, then the port."""
    digits, port = local.split(":")
    words = [int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    # A socket that takes both families shows an IPv4 address as a part of IPv6.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return Listener(str(mapped or address), int(port, 16))
