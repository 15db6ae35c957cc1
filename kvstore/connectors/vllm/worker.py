"""The worker of the direct path: blocks go between KV memory and the store without vLLM's host tier."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult

from kvstore.connectors.core import Done, EngineStore
from kvstore.connectors.vllm.block_names import NamedBlocks
from kvstore.connectors.vllm.metrics import MetricsReader
from kvstore.connectors.vllm.pages import Copy, Pages
from kvstore.keys import Namespace

__all__ = ["KVStoreWorker"]

_GRACE_MS = 1_000


class _Job(NamedTuple):
    number: int
    named: NamedBlocks
    blocks: list[list[int]]  # block numbers, a list a group
    rows: torch.Tensor
    nbytes: int
    started_s: float


class KVStoreWorker(OffloadingWorker):
    """One rank's. For the worker's thread, once a step.

    A store ends for vLLM once its blocks were copied to host memory, so that no step waits for a node; from there they
    are saved, or dropped when too much is on its way. A load writes to KV memory only after all of its blocks have come
    and were found to be whole. One that fails is reported as over, because vLLM knows no other end, and its request is
    in `take_failed`: `KVStoreConnector` has it computed anew.
    """

    def __init__(self, store: EngineStore, namespace: Callable[[str], Namespace], pages: Pages) -> None:
        self._store = store
        self._namespace = namespace
        self._pages = pages
        self._gathering: dict[int, tuple[_Job, Copy]] = {}
        self._loading: dict[int, _Job] = {}
        self._scattering: dict[int, tuple[_Job, Copy]] = {}
        self._saving: dict[int, _Job] = {}
        self._metrics = MetricsReader(store)
        self._finished: list[TransferResult] = []
        self._failed: set[str] = set()

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        """Begins to copy blocks to host memory; the rest follows in `get_finished`."""
        job = self._job(job_id, dst_spec, src_spec)
        if self._store.connected:
            self._gathering[job_id] = job, self._pages.gather(job.blocks, job.rows)
        else:
            self._end(job)
        return True

    def submit_load(
        self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec, expedited: bool = False
    ) -> bool:
        """Begins to load blocks into host memory; the rest follows in `get_finished`."""
        job = self._job(job_id, src_spec, dst_spec)
        ticket = self._store.load(
            self._names(job), self._buffers(job), nbytes=job.nbytes, first_depth=job.named.first_depth
        )
        self._loading[ticket] = job
        return True

    def get_finished(self) -> list[TransferResult]:
        """The jobs that are over for vLLM since the last call, each once."""
        self._save_gathered()
        self._take(self._store.poll())
        for number, (job, copy) in list(self._scattering.items()):
            if copy.is_done:
                del self._scattering[number]
                self._end(job)
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Until these jobs touch KV memory no more: the time of a copy, for loads at most the load timeout."""
        for number in job_ids & self._gathering.keys():
            self._gathering[number][1].wait()
        tickets = [ticket for ticket, job in self._loading.items() if job.number in job_ids]
        self._take(self._store.wait(tickets, self._store.config.load_timeout_ms + _GRACE_MS))
        for number in job_ids & self._scattering.keys():
            self._scattering[number][1].wait()

    def take_failed(self) -> set[str]:
        """The requests of loads that have failed since the last call."""
        failed, self._failed = self._failed, set()
        return failed

    def stats(self) -> OffloadingConnectorStats | None:
        """What this process's counters have grown by since the last call."""
        return self._metrics.read()

    def shutdown(self) -> None:
        """Ends the session with the node; copies of the device are waited for. Idempotent."""
        self._store.close()
        for _, copy in (*self._gathering.values(), *self._scattering.values()):
            copy.wait()

    def _save_gathered(self) -> None:
        for number, (job, copy) in list(self._gathering.items()):
            if copy.is_done:
                del self._gathering[number]
                ticket = self._store.save(
                    self._names(job), self._buffers(job), nbytes=job.nbytes, first_depth=job.named.first_depth
                )
                if ticket is not None:
                    self._saving[ticket] = job  # keeps the rows
                self._end(job)

    def _take(self, ended: list[Done]) -> None:
        for done in ended:
            self._saving.pop(done.ticket, None)
            job = self._loading.pop(done.ticket, None)
            if job is None:
                continue
            if done.ok.all():
                self._scattering[job.number] = job, self._pages.scatter(job.rows, job.blocks)
            else:
                self._failed.add(job.named.request)
                self._end(job)

    def _end(self, job: _Job) -> None:
        seconds = time.monotonic() - job.started_s
        self._finished.append(TransferResult(job.number, True, transfer_size=job.nbytes, transfer_time=seconds))

    def _job(self, number: int, named: LoadStoreSpec, pages: GPULoadStoreSpec) -> _Job:
        assert isinstance(named, NamedBlocks)
        numbers = iter(pages.block_ids.tolist())
        blocks = [[next(numbers) for _ in range(count)] for count in pages.group_sizes]
        nbytes = sum(len(group) * size for group, size in zip(blocks, self._pages.block_bytes, strict=True))
        rows = self._pages.empty_rows(len(named.keys))
        assert sum(map(len, blocks)) == len(named.keys), "vLLM names other blocks than it has"
        return _Job(number, named, blocks, rows, nbytes, time.monotonic())

    def _names(self, job: _Job) -> Any:
        return self._namespace(job.named.engine_hash).keys(job.named.keys)

    def _buffers(self, job: _Job) -> list[Any]:
        rows = job.rows.numpy()
        sizes = [size for group, size in zip(job.blocks, self._pages.block_bytes, strict=True) for _ in group]
        return [row[:size] for row, size in zip(rows, sizes, strict=True)]
