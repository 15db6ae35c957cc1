"""Which way the bytes travel: a choice made once for each session.

- `mapped`: same host; the client maps the node's arena and copies (or reads in place) without the node's help;
- `shm`: same host, through UCX shared memory; only by request, as the node makes queues for each such session;
- `rdma`: through UCX, bytes placed by the network card, where both sides have one;
- `tcp`: through UCX over any network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.errors import ConnectError
from kvstore.transport.control import Hello
from kvstore.transport.deadline import Deadline
from kvstore.transport.ucx_library import has_rdma_devices

if TYPE_CHECKING:
    from kvstore import _native

__all__ = ["Attachment", "attach", "candidates", "host_id", "rdma_transports"]


@dataclass(frozen=True)
class Attachment:
    """The lane that was asked of the native core, and what it says it really uses ("mapped", "tcp/lo", ...)."""

    lane: str
    endpoint: str


def host_id() -> str:
    """Equal for processes under one running kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def rdma_transports(setting: str) -> str:
    """The UCX transports of a node's RDMA listener, for the setting `rdma`; "" for none."""
    if setting == "over-tcp":
        return "tcp,self"
    return "rc,ud,self" if setting == "auto" and has_rdma_devices() else ""


def candidates(lane: str, hello: Hello) -> Sequence[str]:
    """The lanes to try, best first. A lane that was asked for by name is tried alone."""
    if lane != "auto":
        return (lane,)
    if hello.host_id != host_id():
        return ("rdma", "tcp") if hello.rdma_address and has_rdma_devices() else ("tcp",)
    # Containers share a kernel, and so this identity, but not always the folder of the sockets.
    return ("mapped", "tcp") if os.path.exists(hello.local_socket) else ("tcp",)


def attach(client: _native.Client, lane: str, hello: Hello, hosts: Sequence[str], deadline: Deadline) -> Attachment:
    """Attaches `client` over the best lane that works. `hosts` are the numeric addresses of the node, best first.

    Raises `ConnectError` with what was tried when no lane works before the deadline.
    """
    attempts = [(name, host) for name in candidates(lane, hello) for host in (hosts[:1] if name == "mapped" else hosts)]
    failures: list[str] = []
    for index, (name, host) in enumerate(attempts):
        if name.startswith("rdma") and not hello.rdma_address:
            failures.append(f"{name}: the node has no RDMA lane; see its setting rdma")
            continue
        try:
            endpoint = client.attach(
                lane=name,
                host=host,
                port=hello.data_port,
                address=hello.rdma_address if name.startswith("rdma") else hello.data_address,
                socket=hello.local_socket,
                token=hello.capability,
                # A share of what is left, so that a lane that hangs does not use up the time of the next.
                timeout_ms=max(1, deadline.left_ms() // (len(attempts) - index)),
            )
        except OSError as error:  # ConnectionError and TimeoutError among them
            failures.append(f"{name}: {error}")
        else:
            return Attachment(name, endpoint)
    tried = "; ".join(failures)
    in_time = f" within {deadline.timeout_ms} ms" if deadline.passed() else ""
    raise ConnectError(f"the node answers, but no data lane works{in_time} ({tried})")
