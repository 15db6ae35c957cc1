"""Traces made from a seed, each of another character: what a policy must bear that was judged by real ones."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.replay.trace import RequestTrace, numbered

__all__ = ["SYNTHETIC", "synthetic_trace"]

_Chain = list[int]


class _Blocks:
    """Hands out blocks nobody has yet."""

    def __init__(self) -> None:
        self._next = 0

    def new(self, count: int | np.integer[Any]) -> _Chain:
        first = self._next
        self._next += int(count)
        return list(range(first, self._next))


class _Calendar:
    """Requests that will come, in order of their time."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Iterator[tuple[float, _Chain]]]] = []
        self._added = 0

    def add(self, start_s: float, session: Iterator[tuple[float, _Chain]]) -> None:
        """`session` yields (seconds until its next request, chain of this one)."""
        heapq.heappush(self._events, (start_s, self._added, session))
        self._added += 1

    def requests(self, count: int) -> Iterator[_Chain]:
        """The first `count` requests."""
        while self._events and count > 0:
            now_s, order, session = heapq.heappop(self._events)
            following = next(session, None)
            if following is None:
                continue
            wait_s, chain = following
            yield list(chain)
            count -= 1
            heapq.heappush(self._events, (now_s + wait_s, order, session))


def _chat(
    rng: np.random.Generator, blocks: _Blocks, start: _Chain, *, first: int, go_on: float, think_s: float
) -> Iterator[tuple[float, _Chain]]:
    """A conversation: each turn has all before it and a few blocks more, after a log-normal time to think."""
    chain = start + blocks.new(first)
    while True:
        yield float(rng.lognormal(np.log(think_s), 0.9)), chain
        if rng.random() > go_on:
            return
        chain = chain + blocks.new(rng.integers(1, 5))


def _shared_prompts(rng: np.random.Generator, requests: int) -> Iterator[_Chain]:
    """System prompts of Zipf's popularity; most requests are single, a third begins a short conversation."""
    blocks, calendar = _Blocks(), _Calendar()
    prompts = [blocks.new(rng.integers(4, 40)) for _ in range(150)]
    for start_s in np.cumsum(rng.exponential(0.4, requests)):
        prompt = prompts[min(int(rng.zipf(1.4)) - 1, len(prompts) - 1)]
        first = int(rng.integers(1, 12))
        calendar.add(start_s, _chat(rng, blocks, prompt, first=first, go_on=0.3, think_s=40))
    return calendar.requests(requests)


def _agents(rng: np.random.Generator, requests: int) -> Iterator[_Chain]:
    """Tool loops: many fast turns on a growing context, from a few common prompts; some take a long pause."""
    blocks, calendar = _Blocks(), _Calendar()
    prompts = [blocks.new(12) for _ in range(5)]

    def loop() -> Iterator[tuple[float, _Chain]]:
        chain = prompts[rng.integers(len(prompts))] + blocks.new(rng.integers(2, 20))
        for _ in range(int(rng.geometric(1 / 15))):
            slow = rng.random() < 0.1
            yield float(rng.exponential(120 if slow else 4)), chain
            chain = chain + blocks.new(rng.integers(1, 4))

    for start_s in np.cumsum(rng.exponential(6, requests)):
        calendar.add(start_s, loop())
    return calendar.requests(requests)


def _scans(rng: np.random.Generator, requests: int) -> Iterator[_Chain]:
    """Conversations, and between them long documents that are read once; the share of documents comes and goes."""
    blocks, calendar = _Blocks(), _Calendar()
    prompt = blocks.new(3)
    for number, start_s in enumerate(np.cumsum(rng.exponential(0.8, requests))):
        scanning = (number // 300) % 2 == 1
        if rng.random() < (0.4 if scanning else 0.05):
            once = _chat(rng, blocks, [], first=int(rng.integers(60, 200)), go_on=0, think_s=1)
            calendar.add(start_s, once)
        else:
            first = int(rng.integers(1, 10))
            calendar.add(start_s, _chat(rng, blocks, prompt, first=first, go_on=0.7, think_s=90))
    return calendar.requests(requests)


def _uniform(rng: np.random.Generator, requests: int) -> Iterator[_Chain]:
    """Chains that are asked for again and again, each as likely as any other: nothing to learn."""
    blocks = _Blocks()
    chains = [blocks.new(rng.integers(5, 40)) for _ in range(1500)]
    for _ in range(requests):
        yield chains[rng.integers(len(chains))]


def _drifting(rng: np.random.Generator, requests: int) -> Iterator[_Chain]:
    """Popular documents that age: a question goes to a recent document, and what was recent passes."""
    blocks = _Blocks()
    documents = [blocks.new(rng.integers(10, 60)) for _ in range(requests // 8 + 1)]
    for number in range(requests):
        newest = number // 8
        age = min(int(rng.exponential(25)), newest)
        yield documents[newest - age] + blocks.new(rng.integers(1, 3))


_Maker = Callable[[np.random.Generator, int], Iterator[_Chain]]
SYNTHETIC: dict[str, _Maker] = {
    "shared-prompts": _shared_prompts,
    "agents": _agents,
    "scans": _scans,
    "uniform": _uniform,
    "drifting": _drifting,
}


def synthetic_trace(name: str, *, requests: int = 20_000, seed: int = 1) -> RequestTrace:
    """The trace of this name among `SYNTHETIC`. Raises `KeyError` for another."""
    return numbered(SYNTHETIC[name](np.random.default_rng(seed), requests))
