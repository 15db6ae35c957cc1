"""How long a prefix is restorable when several pools must hold their part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer, PoolTransferResult

__all__ = ["restorable_prefix"]


def restorable_prefix(
    kv_pages: int, transfers: Sequence[PoolTransfer], present: Mapping[str, Sequence[bool]]
) -> PoolTransferResult:
    """What SGLang wants to know of a prompt of which the store holds the KV of the first `kv_pages` pages.

    `present` says for the other pools, by name, which pages are there, at least `kv_pages` of them. A prefix is
    restorable where every pool has all of its pages (ALL_PAGES), or as many of its last ones as the transfer has keys
    (TRAILING_PAGES); the latter leaves holes, so all lengths are returned, ascending. Pools of other policies have no
    say, nor a verdict.
    """
    hits: dict[str, int] = {PoolName.KV: kv_pages} if kv_pages else {}
    restorable = set(range(1, kv_pages + 1))
    for transfer in transfers:
        if transfer.hit_policy not in (PoolHitPolicy.ALL_PAGES, PoolHitPolicy.TRAILING_PAGES):
            continue
        # How many pages in a row are there up to each one.
        run, runs = 0, []
        for there in present[transfer.name][:kv_pages]:
            run = run + 1 if there else 0
            runs.append(run)
        if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
            lengths = {length for length, run in enumerate(runs, start=1) if run == length}
        else:
            window = len(transfer.keys) if transfer.keys else 1
            lengths = {length for length, run in enumerate(runs, start=1) if run >= min(window, length)}
        if lengths:
            hits[transfer.name] = max(lengths)
        restorable &= lengths
    return PoolTransferResult(max(restorable, default=0), hits, sorted(restorable))
