"""Saving and loading pages of SGLang's host pool, beside SGLang's own `file` backend on the same pool.

PYTHON_WITH_SGLANG -m benchmarks.connectors.sglang_hicache [--layout LAYOUT] [--folder FOLDER]

Both are called as SGLang's cache controller calls them: `file` with a tensor a page, which SGLang copies out of the
pool and into it, kvstore with the indices of the pages. Fresh pages every round, in turns; pages that come back are
compared with what was written. The files are never flushed: they are as fast as the page cache. Medians, GB/s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import tests.engines.sglang  # noqa: F401 - lets SGLang be imported on a CPU
from kvstore.connectors.sglang import KVStoreHiCache
from tests.engines.sglang.pools import mha_pool, page_hashes, storage_config
from tests.support.node import Node

from sglang.srt.mem_cache.hicache_storage import HiCacheFile  # isort: skip - after what makes it importable

_PAGES = 32
_PAGE_SIZE = 64
_HEADS, _HEAD_SIZE = 8, 128  # times three layers, keys and values, bfloat16: 768 KiB a page
_ROUNDS = 15


class _File:
    """SGLang's `file` backend as `HiCacheController._generic_page_set` and `_generic_page_get` use it."""

    def __init__(self, folder: str, pool) -> None:
        self._backend = HiCacheFile(storage_config("kv://127.0.0.1:1"), file_path=folder)
        self._pool = pool

    def save(self, hashes: list[str], slots: torch.Tensor) -> bool:
        pages = [self._pool.get_data_page(slots[index * _PAGE_SIZE]) for index in range(len(hashes))]
        return self._backend.batch_set(hashes, pages)

    def load(self, hashes: list[str], slots: torch.Tensor) -> bool:
        targets = [self._pool.get_dummy_flat_data_page() for _ in hashes]
        pages = self._backend.batch_get(hashes, targets)
        for index, page in enumerate(pages):
            self._pool.set_from_flat_data_page(slots[index * _PAGE_SIZE], page)
        return True


class _Store:
    def __init__(self, endpoint: str, pool) -> None:
        self._backend = KVStoreHiCache(storage_config(endpoint), {})
        self._backend.register_mem_pool_host(pool)

    def save(self, hashes: list[str], slots: torch.Tensor) -> bool:
        return all(self._backend.batch_set_v1(hashes, slots))

    def load(self, hashes: list[str], slots: torch.Tensor) -> bool:
        return all(self._backend.batch_get_v1(hashes, slots))

    def close(self) -> None:
        self._backend.close()


def _seconds(work: Callable[[list[str], torch.Tensor], bool], hashes: list[str], slots: torch.Tensor) -> float:
    began_s = time.perf_counter()
    assert work(hashes, slots), "a page was not moved"
    return time.perf_counter() - began_s


def main() -> None:
    """Prints a row for each verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="page_first")
    parser.add_argument("--folder", help="of the files; a temporary one by default")
    options = parser.parse_args()
    pool = mha_pool(
        layout=options.layout,
        dtype=torch.bfloat16,
        page_size=_PAGE_SIZE,
        heads=_HEADS,
        head_size=_HEAD_SIZE,
        pages=2 * _PAGES,
    )
    source, target = (pool.alloc(_PAGES * _PAGE_SIZE) for _ in range(2))
    nbytes = _PAGES * _PAGE_SIZE * pool.size_per_token
    times: dict[tuple[str, str], list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as own,
        tempfile.TemporaryDirectory(dir=options.folder) as files,
        # Its memory is touched already, as that of a node that has run for a while.
        Node(Path(own), "--prefault", memory="1GiB") as node,
    ):
        store = _Store(node.url, pool)
        backends = {"file": _File(files, pool), "kvstore": store}
        for number in range(_ROUNDS + 1):
            pool.kv_buffer.view(torch.int16).random_(generator=torch.Generator().manual_seed(number))
            hashes = page_hashes(number, _PAGES, _PAGE_SIZE)
            for name in list(backends)[:: 1 if number % 2 else -1]:
                saving_s = _seconds(backends[name].save, hashes, source)
                pages = [pool.get_data_page(int(slot)).clone() for slot in source[::_PAGE_SIZE]]
                for slot in target[::_PAGE_SIZE].tolist():
                    pool.set_from_flat_data_page(slot, torch.zeros_like(pages[0]))
                loading_s = _seconds(backends[name].load, hashes, target)
                for slot, page in zip(target[::_PAGE_SIZE].tolist(), pages, strict=True):
                    assert torch.equal(pool.get_data_page(slot).view(torch.int16), page.view(torch.int16))
                if number:  # the first round warms up
                    times.setdefault(("save", name), []).append(saving_s)
                    times.setdefault(("load", name), []).append(loading_s)
        store.close()
    print(f"{_PAGES} pages of {nbytes // _PAGES >> 10} KiB, {options.layout}, {_ROUNDS} rounds, lane: same host")
    for verb in ("save", "load"):
        speeds = {name: nbytes / 1e9 / statistics.median(times[verb, name]) for name in ("file", "kvstore")}
        ratio = speeds["kvstore"] / speeds["file"]
        print(f"{verb}: file {speeds['file']:5.2f} GB/s, kvstore {speeds['kvstore']:5.2f} GB/s, {ratio:.1f} times")


if __name__ == "__main__":
    main()
