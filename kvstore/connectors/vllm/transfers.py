"""Chunks on their way between vLLM's host memory and the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from vllm.v1.kv_offload.tiering.base import JobResult, TransferJob

from kvstore.connectors.core import Done, EngineStore

__all__ = ["Transfers"]


class _UnderWay(NamedTuple):
    job: TransferJob
    keys: list[bytes]  # in the order of the chain


class Transfers:
    """Jobs of one tier. For one thread.

    `rows` is vLLM's host memory, a `(chunks, bytes)` uint8 array: the store's client copies between it and the node,
    and no byte passes through Python. `names` gives the `(n, 32)` keys of chunks, `depth` the place of a chunk in its
    chain. Every job ends within the timeouts of the settings.
    """

    def __init__(
        self,
        store: EngineStore,
        rows: np.ndarray[Any, np.dtype[np.uint8]],
        names: Callable[[Sequence[bytes]], Any],
        depth: Callable[[Any, bytes], int],
    ) -> None:
        self._store = store
        self._rows = list(rows)
        self._row_bytes = rows.shape[1]
        self._names = names
        self._depth = depth
        self._under_way: dict[int, _UnderWay] = {}
        self._results: list[JobResult] = []
        self.loads_failed: list[tuple[str, list[bytes]]] = []
        """(request, keys) of chunks that were not loaded; whoever reads it empties it."""

    def save(self, job: TransferJob) -> None:
        """Begins to save; a job that the store has no room for ends at once as failed."""
        keys, buffers, first_depth = self._in_order(job)
        nbytes = len(keys) * self._row_bytes
        ticket = self._store.save(self._names(keys), buffers, nbytes=nbytes, first_depth=first_depth)
        if ticket is None:
            self._results.append(JobResult(job.job_id, success=False))
        else:
            self._under_way[ticket] = _UnderWay(job, keys)

    def load(self, job: TransferJob) -> None:
        """Begins to load."""
        keys, buffers, first_depth = self._in_order(job)
        nbytes = len(keys) * self._row_bytes
        ticket = self._store.load(self._names(keys), buffers, nbytes=nbytes, first_depth=first_depth)
        self._under_way[ticket] = _UnderWay(job, keys)

    def end(self, done: Done) -> bool:
        """Takes a completion of the store; False where it belongs to somebody else."""
        under_way = self._under_way.pop(done.ticket, None)
        if under_way is None:
            return False
        job, keys = under_way
        success = bool(done.ok.all())
        loaded = None
        if job.is_promotion and not success:
            loaded = [key for key, ok in zip(keys, done.ok.tolist(), strict=True) if ok]
            missing = [key for key, ok in zip(keys, done.ok.tolist(), strict=True) if not ok]
            self.loads_failed.append((job.req_context.req_id, missing))
        self._results.append(
            JobResult(
                job.job_id,
                success=success,
                successful_keys=loaded,
                transfer_time=done.seconds,
            )
        )
        return True

    def results(self) -> list[JobResult]:
        """The jobs that have ended since the last call, each once."""
        results, self._results = self._results, []
        return results

    @property
    def tickets(self) -> list[int]:
        """What is under way."""
        return list(self._under_way)

    def close(self) -> None:
        """Lets go of vLLM's memory."""
        self._rows = []

    def _in_order(self, job: TransferJob) -> tuple[list[bytes], list[Any], int]:
        """Keys and memory along the chain, whatever order vLLM has them in, and where the first stands."""
        depth, context = self._depth, job.req_context
        chunks = sorted(
            (depth(context, key), key, chunk) for key, chunk in zip(job.keys, job.chunk_ids.tolist(), strict=True)
        )
        return [key for _, key, _ in chunks], [self._rows[chunk] for *_, chunk in chunks], chunks[0][0]
