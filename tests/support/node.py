"""A node process with what fault tests do to it and look up in it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from kvstore.transport.address import NodeAddress
from kvstore.transport.control import ControlPlane
from tests.node_process import LANES, NodeProcess, wait_until

__all__ = ["ALL_LANES", "RDMA_SETTING", "Node"]

# The protocol of RDMA, where bytes are placed in their final buffers, runs over TCP on machines without such devices.
ALL_LANES = (*LANES, "rdma-over-tcp")
RDMA_SETTING = 'rdma = "over-tcp"'

_ANSWER_MS = 10_000
_LAST_SESSION_S = 1.0
# Counters that say how much there is; all others say how often something has happened.
_GAUGES = frozenset(
    {
        *("capacity_bytes", "used_bytes", "reserved_bytes", "leased_bytes", "index_bytes", "blocks", "leases"),
        *("sessions_open", "gets_waiting", "huge_pages"),
    }
)


class Node(NodeProcess):
    """`kvstore serve`, its counters, and the ways to hurt it. `settings` are lines of its settings file."""

    token = ""  # of the tenant whose counters these are

    def __init__(self, folder: Path, *flags: str, memory: str = "64MiB", settings: str = "") -> None:
        file = folder / "kvstore.toml"
        file.write_text(f"[node]\n{settings}\n")
        super().__init__(folder, "--config", str(file), *flags, memory=memory)
        self._control: ControlPlane | None = None
        self._counted_before: dict[str, int] = {}

    def start(self) -> Self:
        self._counted_before = {}
        return super().start()

    def renew(self) -> None:
        """Makes it as good as new for the next test: running, empty, with no session, and counting from zero."""
        if not self.is_running:
            self.start()
        self.thaw()
        try:
            self.wait_for_counters("all sessions have ended", _LAST_SESSION_S, sessions_open=0)
        except AssertionError:  # a session that was lost while the node was frozen may take long to be noticed
            self.kill()
            self.start()
        self.evict(1 << 40)
        counters = self._all_counters()
        self._counted_before = {name: value for name, value in counters.items() if name not in _GAUGES}

    @property
    def is_running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    @property
    def counters(self) -> dict[str, int]:
        """What the node holds now, and what it has counted since it was started or renewed."""
        return {name: value - self._counted_before.get(name, 0) for name, value in self._all_counters().items()}

    def evict(self, count_bytes: int) -> int:
        return self._plane().evict(count_bytes, timeout_ms=_ANSWER_MS)

    def wait_for_counters(self, what: str, timeout_s: float = 15.0, **expected: int) -> dict[str, int]:
        """Waits until the named counters have these values, and returns all of them."""
        counters: dict[str, int] = {}

        def is_so() -> bool:
            counters.update(self.counters)
            return all(counters[name] == value for name, value in expected.items())

        try:
            wait_until(is_so, what, timeout_s)
        except AssertionError as error:
            found = {name: counters.get(name) for name in expected}
            raise AssertionError(f"{error}: {found} instead of {expected}") from None
        return counters

    def __exit__(self, *error: object) -> None:
        if self._control is not None:
            self._control.close()
        super().__exit__(*error)

    def _all_counters(self) -> dict[str, int]:
        return dict(self._plane().stats(timeout_ms=_ANSWER_MS).counters)

    def _plane(self) -> ControlPlane:
        if self._control is None:
            self._control = ControlPlane(NodeAddress.parse(self.address), self.token)
        return self._control
