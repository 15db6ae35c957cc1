"""A process that connects on and on: `python -m tests.faults.attach_worker <url> <lane>`, until its input ends."""

from __future__ import annotations

import select
import sys
import threading

import kvstore
from kvstore.config import ClientConfig
from kvstore.errors import ConnectError
from tests.support.blocks import chain

THREADS = 3
CONFIG = ClientConfig(timeout_ms=2_000, connect_timeout_ms=2_000, reconnect_backoff_ms_max=50)


def connect_until(stop: threading.Event, url: str, lane: str) -> None:
    names = chain("attach", 3)
    while not stop.is_set():
        try:
            with kvstore.connect(url, lane=lane, config=CONFIG) as store:
                store.match(names)
        except ConnectError:
            continue


def main(url: str, lane: str) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=connect_until, args=(stop, url, lane)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    print("connecting", flush=True)
    select.select([sys.stdin], [], [])
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
