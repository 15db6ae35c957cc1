"""vLLM's tiered offloading on CPU, where its own worker refuses to run; the layout of chunks is that of vLLM."""

from __future__ import annotations

import torch
from typing_extensions import override
from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

__all__ = ["CPUTieringSpec"]


class CPUTieringSpec(TieringOffloadingSpec):
    @override
    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        region = SharedOffloadRegion(
            engine_id=self.config.engine_id,
            num_chunks=self.num_chunks,
            rank=0 if self.replicated_layout else self.config.parallel.rank,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        return _CopyingWorker(kv_caches, region, self.blocks_per_chunk)


class _CopyingWorker(OffloadingWorker):
    """Copies pages within the call."""

    def __init__(self, kv_caches: CanonicalKVCaches, region: SharedOffloadRegion, blocks_per_chunk: int) -> None:
        self._region = region
        self._blocks_per_chunk = blocks_per_chunk
        self._groups = kv_caches.group_data_refs
        self._pages = [one.tensor.view(torch.int8).view(-1, one.page_size_bytes) for one in kv_caches.tensors]
        self._chunks = [
            region.create_next_worker_view(one.page_size_bytes * blocks_per_chunk) for one in kv_caches.tensors
        ]
        self._finished: list[TransferResult] = []

    @override
    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._copy(job_id, src_spec, dst_spec, to_chunks=True)

    @override
    def submit_load(
        self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec, expedited: bool = False
    ) -> bool:
        return self._copy(job_id, dst_spec, src_spec, to_chunks=False)

    @override
    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    @override
    def wait(self, job_ids: set[int]) -> None:
        pass

    @override
    def shutdown(self) -> None:
        self._chunks.clear()
        self._region.cleanup()

    def _copy(self, job_id: int, blocks: GPULoadStoreSpec, chunks: LoadStoreSpec, *, to_chunks: bool) -> bool:
        assert isinstance(chunks, CPULoadStoreSpec)
        block_ids, chunk_ids = iter(blocks.block_ids.tolist()), iter(chunks.chunk_ids.tolist())
        copied = 0
        for refs, count, first in zip(self._groups, blocks.group_sizes, blocks.block_indices, strict=True):
            chunk = -1
            for index in range(first, first + count):
                place = index % self._blocks_per_chunk
                if place == 0 or index == first:
                    chunk = next(chunk_ids)
                block = next(block_ids)
                for ref in refs:
                    size = ref.page_size_bytes
                    page = self._pages[ref.tensor_idx][block, :size]
                    begin = place * self._pages[ref.tensor_idx].shape[1]
                    part = self._chunks[ref.tensor_idx][chunk, begin : begin + size]
                    (part if to_chunks else page).copy_(page if to_chunks else part)
                    copied += size
        assert next(block_ids, None) is None
        assert next(chunk_ids, None) is None
        self._finished.append(TransferResult(job_id, success=True, transfer_size=copied, transfer_time=0.0))
        return True
