"""The ground under the contract: a store to test, a second client of it, and keys that nobody else uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.node_process import wait_until
from tests.support.blocks import Bytes, chain

__all__ = ["ContractBase", "FreshKeys", "counters"]

FreshKeys = Callable[[int], Bytes]

# What a test must give back before the next one starts.
_BORROWED = ("leases", "leased_bytes", "reserved_bytes", "gets_waiting")


def counters(store: Any) -> dict[str, int]:
    """The node's counters, as the store tells them."""
    node = store.stats()["node"]
    assert node is not None
    return node


class ContractBase:
    """Who inherits it provides two fixtures.

    - `store`: the client under test, of a store of at least 64 MiB;
    - `second`: a client of the same store that may work at the same time; where there can be only one, that one.
    """

    @pytest.fixture
    def keys(self, request: pytest.FixtureRequest) -> FreshKeys:
        """`keys(n)` is a chain of n keys that no test, and no earlier call, has used."""
        calls = itertools.count()
        return lambda count: chain(f"{request.node.nodeid} {next(calls)}", count)

    @pytest.fixture(autouse=True)
    def _nothing_stays_behind(self, store: Any) -> Iterator[None]:
        yield
        assert store.stats()["client"]["connected"]
        wait_until(
            lambda: not any(counters(store)[name] for name in _BORROWED),
            f"the test has given back its {', '.join(_BORROWED)}",
        )
