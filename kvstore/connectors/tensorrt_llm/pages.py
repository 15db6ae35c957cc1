"""The engine's pages: the bytes of a block of one rank, in one piece or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvstore.connectors.tensorrt_llm.deployment import Deployment
from kvstore.connectors.tensorrt_llm.interface import ENGINE_VERSION
from kvstore.errors import UnsupportedError
from kvstore.layout import PageLayout

__all__ = ["EnginePages"]


@dataclass(frozen=True, kw_only=True)
class EnginePages:
    """`pools` are uint8 views of shape (blocks, bytes), one for each piece of a page; rows follow each other in it."""

    pools: Sequence[torch.Tensor]
    block_size: int
    layout: PageLayout

    @classmethod
    def of_tensor(cls, tensor: torch.Tensor, deployment: Deployment) -> EnginePages:
        """The pool of the first KV cache manager: (blocks, layers, keys and values, elements of all heads and tokens).

        Raises `UnsupportedError` for a tensor that is not such a pool.
        """
        block_size = deployment.tokens_per_block
        if tensor.dim() != 4 or not tensor.is_contiguous() or tensor.shape[3] % block_size:
            raise UnsupportedError(
                f"a KV pool of shape {tuple(tensor.shape)} and strides {tuple(tensor.stride())} is none of blocks of"
                f" {block_size} tokens (blocks, layers, keys and values, elements)"
            )
        pool = tensor.view(tensor.shape[0], -1).view(torch.uint8)
        terms = {"manager": "v1", "shape": list(tensor.shape[1:]), "element": str(tensor.dtype)}
        return cls(pools=[pool], block_size=block_size, layout=_layout(pool.shape[1], terms, deployment))

    @classmethod
    def of_layout(cls, layout: Any, deployment: Deployment) -> EnginePages:
        """The pools of KVCacheManagerV2, where each layer keeps all tokens and a block is one slot of every region.

        Raises `UnsupportedError` for others.
        """
        if len(layout.groups) != 1 or layout.groups[0].window_size is not None:
            windows = [group.window_size for group in layout.groups]
            raise UnsupportedError(f"layer groups with windows {windows}: only one group without a window is supported")
        group = layout.groups[0]
        regions = [*group.regions, *group.replicated_regions]
        buffers = [
            [(buffer.layer_id, str(buffer.role), buffer.expansion) for buffer in region.buffers] for region in regions
        ]
        if not regions or any(expansion != 1 for region in buffers for _, _, expansion in region):
            raise UnsupportedError("regions whose slots are not one block each: expansions other than 1")
        if len({region.num_slots for region in regions}) != 1:
            raise UnsupportedError("regions with different numbers of slots: a block has no slot in some")
        pools = [region.as_tensor() for region in regions]
        for pool, region in zip(pools, regions, strict=True):
            if pool.dtype != torch.uint8 or tuple(pool.shape) != (region.num_slots, region.size):
                raise UnsupportedError(f"a region of {pool.dtype} and shape {tuple(pool.shape)} is none of bytes")
        terms = {
            "manager": "v2",
            "layers": list(group.layer_ids),
            "regions": [
                [region.size, [[layer, role] for layer, role, _ in held]]
                for region, held in zip(regions, buffers, strict=True)
            ],
        }
        nbytes = sum(region.size for region in regions)
        return cls(pools=pools, block_size=layout.tokens_per_block, layout=_layout(nbytes, terms, deployment))

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.layout.page_bytes

    @property
    def on_gpu(self) -> bool:
        """Whether copies are carried out by a stream."""
        return bool(self.pools[0].is_cuda)

    def copy_out(self, block: int, target: torch.Tensor) -> None:
        """Copies a page to `target`, `(page_bytes,)` uint8; on a GPU in the order of the current stream."""
        for pool, part in self._parts(target):
            part.copy_(pool[block], non_blocking=True)

    def copy_in(self, block: int, source: torch.Tensor) -> None:
        """... and back."""
        for pool, part in self._parts(source):
            pool[block].copy_(part, non_blocking=True)

    def _parts(self, whole: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sizes = [pool.shape[1] for pool in self.pools]
        return list(zip(self.pools, whole.split(sizes), strict=True))


def _layout(page_bytes: int, terms: dict[str, Any], deployment: Deployment) -> PageLayout:
    return PageLayout(
        engine="tensorrt_llm",
        dtype=deployment.kv_dtype,
        page_bytes=page_bytes,
        terms={**deployment.terms, **terms, "version": ENGINE_VERSION},
    )
