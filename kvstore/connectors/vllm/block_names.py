"""What a job of the direct path says to workers: which blocks, without the bytes."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.v1.kv_offload.base import LoadStoreSpec

__all__ = ["NamedBlocks"]


@dataclass(frozen=True)
class NamedBlocks(LoadStoreSpec):
    """vLLM's keys of blocks in the order of the job, for a request; each worker makes its own rank's names of them.

    `engine_hash` names vLLM's hash algorithm and seed, which only the scheduler's process knows.
    """

    request: str
    keys: tuple[bytes, ...]
    engine_hash: str
    first_depth: int
