"""Clients at work until their node dies: writers that know what they were told, and readers that check every byte."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable
from typing import Self

import numpy as np

import kvstore
from kvstore.errors import ConnectError
from tests.faults.disk_journal import Journal, Record
from tests.support.blocks import block
from tests.support.disk_node import CONFIG

__all__ = ["Load"]

SIZES = (1000, 4096, 20_000, 70_001, 262_144, 600_000)
LIVE_BYTES_MAX = 12 << 20  # of each writer
LANES = ("mapped", "tcp")
_TTL_S = (0.05, 0.5, 2.0, 600.0)
_STOP_S = 60.0


class Load:
    """Two writers and two readers, one of each over each lane, from the start of the `with` statement to its end.

    Nobody tells them that the node died: what they are told by their calls is what counts. They are connected before
    they start; nodes that die while somebody connects are tests/faults/test_attach.py.
    """

    def __init__(self, url: str, journal: Journal, seed: int) -> None:
        self._journal = journal
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._stores: list[kvstore.Client] = []
        self._threads: list[threading.Thread] = []
        with contextlib.suppress(ConnectError):  # it died before we came
            for lane in LANES:
                for work in (self._write, self._read):
                    self._stores.append(kvstore.connect(url, lane=lane, config=CONFIG))
                    arguments = (work, self._stores[-1], f"{seed} {lane}")
                    self._threads.append(threading.Thread(target=self._run, args=arguments, name=f"{work} {lane}"))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_STOP_S)
            assert not thread.is_alive(), f"a call of {thread.name} hangs"
        for store in self._stores:
            store.close()
        if error[0] is None and self._errors:
            raise AssertionError(f"{len(self._errors)} failed: {self._errors}") from self._errors[0]

    def _run(
        self, work: Callable[[kvstore.Client, random.Random, str], None], store: kvstore.Client, seed: str
    ) -> None:
        try:
            work(store, random.Random(seed), seed)
        except BaseException as error:
            self._errors.append(error)

    def _goes_on(self, store: kvstore.Client) -> bool:
        return not self._stop.is_set() and store.stats()["client"]["connected"]

    # ---- writing

    def _write(self, store: kvstore.Client, choices: random.Random, name: str) -> None:
        mine: list[Record] = []
        for number in itertools.count():
            if not self._goes_on(store):
                return
            self._write_chain(store, choices, f"{name} {number}", mine)
            while sum(record.count * record.size for record in mine) > LIVE_BYTES_MAX:
                mine.pop(0).delete(store)
            if mine and choices.random() < 0.2:
                self._change(store, choices, mine)
            if choices.random() < 0.05:
                self._flush(store, mine)

    def _write_chain(self, store: kvstore.Client, choices: random.Random, name: str, mine: list[Record]) -> None:
        ttl_s = choices.choice(_TTL_S) if choices.random() < 0.15 else None
        record = Record(name, choices.randint(1, 12), choices.choice(SIZES), ttl_s)
        self._journal.records.append(record)
        durable = choices.random() < 0.5
        if self._put(store, record, durable):
            mine.append(record)
            if durable and ttl_s is None and choices.random() < 0.2:
                record.pin(store)

    def _change(self, store: kvstore.Client, choices: random.Random, mine: list[Record]) -> None:
        """Deletes a chain, writes it anew with other bytes, or asks for its durability after all."""
        record = choices.choice(mine)
        if record.ttl_s is not None:
            return
        if choices.random() < 0.5:
            record.delete(store)
            if record.uncertain or choices.random() < 0.3:
                mine.remove(record)
                return
            record.version += 1
        if not self._put(store, record, choices.random() < 0.5):
            mine.remove(record)

    def _put(self, store: kvstore.Client, record: Record, durable: bool) -> bool:
        return record.put(store, durable=durable, evictable=self._journal.evictable)

    def _flush(self, store: kvstore.Client, mine: list[Record]) -> None:
        known = [(record, record.version) for record in mine if not record.uncertain]
        if store.flush():
            for record, version in known:
                record.settle(version)

    # ---- reading

    def _read(self, store: kvstore.Client, choices: random.Random, name: str) -> None:
        """Whatever is there is what somebody put there."""
        while self._goes_on(store):
            records = self._journal.records
            if not records:
                continue
            record = choices.choice(records[-200:])
            buffers = np.full((record.count, record.size), 0xEE, np.uint8)
            got = store.get(record.keys, buffers, wait_ms=choices.choice((0, 0, 20)))
            for at in np.flatnonzero(got.ok):
                known = range(record.version + 1)
                assert any(np.array_equal(buffers[at], block(record.keys[at], record.size, v)) for v in known), (
                    f"{record.name}, block {at}: wrong bytes"
                )
            if choices.random() < 0.1:
                assert store.match(record.keys) <= record.count
