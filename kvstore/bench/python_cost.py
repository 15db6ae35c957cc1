"""What Python itself costs: the time of a call that has nothing to wait for.

A client without a session ends every batch at once, so what remains of a call is Python, the binding (keys and buffers
are read and held, the interpreter lock is released and taken again) and the making of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kvstore.bench.measurement import Point, Probe, Seconds, repeat
from kvstore.bench.working_set import WorkingSet
from kvstore.client import Client, GetResult, PutResult
from kvstore.client.session import Session
from kvstore.config import KIB, ClientConfig
from kvstore.errors import KVStoreError
from kvstore.status import Status

__all__ = ["DEPTHS", "SUBJECT", "PythonCost", "cost_probes", "detached_client", "fit_cost"]

SUBJECT: Final = "python"
DEPTHS: Final = (1, 16, 64, 256)

_BLOCK_BYTES: Final = 4 * KIB


class _DetachedSession(Session):
    """With no node at all."""

    def _node_stats(self, timeout_ms: int) -> dict[str, Any] | None:
        return None

    def _flush_node(self, timeout_ms: int) -> bool:
        return False

    def _pin_on_node(self, keys: bytes, owner: str, ttl_ms: int, timeout_ms: int) -> bytes:
        return b""

    def _close(self) -> None:
        self.native.close()


def detached_client() -> Client:
    """A client whose every batch ends at once as UNAVAILABLE."""
    return Client(_DetachedSession(ClientConfig()), timeout_ms=1000)


@dataclass(frozen=True)
class _CostProbe:
    client: Client
    verb: str
    working_set: WorkingSet
    depth: int

    @property
    def point(self) -> Point:
        return Point(SUBJECT, self.verb, _BLOCK_BYTES, self.depth)

    def measure(self, budget_ms: int) -> Seconds:
        keys = self.working_set.new_keys(self.depth)
        place = range(0, self.depth * _BLOCK_BYTES, _BLOCK_BYTES)
        blocks = [self.working_set.target[start : start + _BLOCK_BYTES] for start in place]
        call: Callable[[], GetResult | PutResult] = functools.partial(getattr(self.client, self.verb), keys, blocks)
        return repeat(budget_ms, lambda: call, self._check)

    def _check(self, result: GetResult | PutResult) -> None:
        if result.cause[-1] != Status.UNAVAILABLE:
            raise KVStoreError(f"a client without a session answered {result!r}")


def cost_probes(client: Client, working_set: WorkingSet) -> Iterator[Probe]:
    """`get` and `put` of one buffer a block, in batches of several sizes."""
    for verb in ("get", "put"):
        for depth in DEPTHS:
            yield _CostProbe(client, verb, working_set, depth)


@dataclass(frozen=True)
class PythonCost:
    """A straight line through the time of a call over the number of its blocks."""

    batch_us: float
    block_us: float


def fit_cost(p50_s: Mapping[int, float]) -> PythonCost:
    """The line through `p50_s` (seconds by depth) that is nearest in relative terms."""
    depths, seconds = np.array(list(p50_s)), np.array(list(p50_s.values()))
    block_s, batch_s = np.polyfit(depths, seconds, 1, w=1 / seconds)
    return PythonCost(batch_us=float(batch_s) * 1e6, block_us=float(block_s) * 1e6)
