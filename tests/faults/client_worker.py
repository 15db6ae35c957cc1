"""A client process for the tests to kill: `python -m tests.faults.client_worker <verb> <url> <lane> <name>`.

It prints a line before it starts and one after each batch that was acknowledged, and ends when its standard input does.
"""

from __future__ import annotations

import itertools
import os
import select
import sys
import threading
from collections.abc import Callable

import numpy as np

import kvstore
from kvstore.errors import ClosedError
from tests.support.blocks import Bytes, assert_same, blocks, chain

COUNT = 8
SIZE = 2 << 20
BATCHES = 6
DELETING = "deleting"
TIMEOUT_MS = 30_000


def keys_of(name: str, batch: int) -> Bytes:
    """The keys that the worker called `name` puts in its `batch`-th batch."""
    return chain(f"{name} {batch}", COUNT)


def put(store: kvstore.Client, name: str) -> None:
    """Puts half of the batches and deletes them, then the other half in their place, and so on until killed.

    Whatever of a block is not written is then left over from another one.
    """
    batches = [(keys, blocks(keys, SIZE)) for keys in (keys_of(name, batch) for batch in range(BATCHES))]
    print("ready", flush=True)
    for half in itertools.cycle((range(BATCHES // 2), range(BATCHES // 2, BATCHES))):
        for batch in half:
            assert store.put(*batches[batch]).all_ok
            print(batch, flush=True)
        print(DELETING, flush=True)
        for batch in half:
            store.delete(batches[batch][0])


def get(store: kvstore.Client, name: str) -> None:
    """Reads batch 0, verifying all bytes, until told to end; ends with the number of blocks that were missing."""
    print("ready", flush=True)
    print("missed", _read_on(store, name), flush=True)


def borrow(store: kvstore.Client, name: str) -> None:
    """As `get`, with batch 0 borrowed all the time."""
    with store.borrow(keys_of(name, 0)[:4]):
        print("ready", flush=True)
        print("missed", _read_on(store, name), flush=True)


def wait(store: kvstore.Client, name: str) -> None:
    """Waits for blocks that never come."""
    print("ready", flush=True)
    store.get(keys_of(name, 0), np.empty((COUNT, SIZE), np.uint8), wait_ms=TIMEOUT_MS)


def fork(store: kvstore.Client, name: str) -> None:
    """Forks while other threads use the client; the children try every verb."""
    stop = threading.Event()
    failures: list[BaseException] = []
    readers = [threading.Thread(target=_read_until, args=(store, name, stop, failures)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(_refused_verbs(store))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a verb was not refused in the child"
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures, failures
    print("went on", flush=True)


def _read_on(store: kvstore.Client, name: str) -> int:
    keys, missed = keys_of(name, 0), 0
    contents, buffers = blocks(keys, SIZE), np.empty((COUNT, SIZE), np.uint8)
    for number in itertools.count():
        if _ends():
            return missed
        got = store.get(keys, buffers)
        for at in np.flatnonzero(got.ok):
            assert_same(buffers[at], contents[at])
        missed += int((~got.ok).sum())
        print(number, flush=True)
    raise AssertionError


def _read_until(store: kvstore.Client, name: str, stop: threading.Event, failures: list[BaseException]) -> None:
    keys = keys_of(name, 0)[:2]
    contents, buffers = blocks(keys, SIZE), np.empty((2, SIZE), np.uint8)
    try:
        while not stop.is_set():
            assert store.get(keys, buffers).all_ok
            assert_same(buffers[1], contents[1])
    except BaseException as error:
        failures.append(error)


def _refused_verbs(store: kvstore.Client) -> int:
    """0 when each verb raises `ClosedError`, which it must do at once: no lock may be waited for here."""
    keys, buffer = chain("fork", 1), bytearray(16)
    uses: list[Callable[[], object]] = [
        lambda: store.match(keys),
        lambda: store.put(keys, [buffer]),
        lambda: store.get(keys, [buffer]),
        lambda: store.borrow(keys),
        lambda: store.exists(keys),
        lambda: store.touch(keys),
        lambda: store.delete(keys),
        store.stats,
    ]
    for number, use in enumerate(uses, start=1):
        try:
            use()
        except ClosedError:
            continue
        return number
    return 0


def _ends() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main(verb: str, url: str, lane: str, name: str) -> None:
    verbs = {"put": put, "get": get, "borrow": borrow, "wait": wait, "fork": fork}
    with kvstore.connect(url, lane=lane, timeout_ms=TIMEOUT_MS) as store:
        verbs[verb](store, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
