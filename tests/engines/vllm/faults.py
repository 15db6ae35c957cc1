"""Our classes with something wrong on purpose, for engines of tests to load by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from vllm.v1.kv_offload.tiering.base import TransferJob

from kvstore.connectors.vllm import KVStoreOffloadingSpec, KVStoreTier
from tests.node_process import wait_until

__all__ = ["SignallingSpec", "SignallingTier", "ZeroingTier"]


class ZeroingTier(KVStoreTier):
    """Saves zeros: what loads them must say something else, or it does not use what it loads."""

    def submit_store(self, job_metadata: TransferJob) -> None:
        np.asarray(self._primary_kv_view)[job_metadata.chunk_ids] = 0
        super().submit_store(job_metadata)


class _Signal:
    """Sends process `pid` the signal `number`, once, when the first job in direction `at` ("load", "save") begins.

    The node has answered the lookup by then, and does not get to answer the job.
    """

    def __init__(self, *, pid: int, number: int, at: str) -> None:
        self._pid: int | None = pid
        self._number = number
        self._at = at

    def begins(self, at: str) -> None:
        if self._pid is not None and at == self._at:
            os.kill(self._pid, self._number)
            wait_until(lambda pid=self._pid: _is_out(pid), "the signal has reached every thread")
            self._pid = None


def _is_out(pid: int) -> bool:
    """Whether the process is stopped or dead."""
    try:
        stats = [Path(task, "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:  # a thread that has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] in "TZX" for stat in stats)


class SignallingTier(KVStoreTier):
    def __init__(self, *arguments: Any, signal: dict[str, Any], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._signal = _Signal(**signal)

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._signal.begins("save")
        super().submit_store(job_metadata)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._signal.begins("load")
        super().submit_load(job_metadata)


class SignallingSpec(KVStoreOffloadingSpec):
    def get_worker(self, kv_caches: Any) -> Any:
        worker, signal = super().get_worker(kv_caches), _Signal(**self.config.extra_config["signal"])
        store, load = worker.submit_store, worker.submit_load

        def submit_store(*arguments: Any) -> bool:
            signal.begins("save")
            return store(*arguments)

        def submit_load(*arguments: Any, **options: Any) -> bool:
            signal.begins("load")
            return load(*arguments, **options)

        worker.submit_store, worker.submit_load = submit_store, submit_load
        return worker
