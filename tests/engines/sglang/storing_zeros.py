"""The negative control: a backend that stores zeros under the names of real pages."""

from __future__ import annotations

import torch

from kvstore.connectors.sglang import KVStoreHiCache

__all__ = ["StoringZeros"]


class StoringZeros(KVStoreHiCache):
    """What the real backend loads afterwards is wrong, and an engine that uses it generates something else."""

    def batch_set_v1(self, keys, host_indices, extra_info=None):
        pool = self.mem_pool_host
        for index in host_indices[:: pool.page_size].tolist():
            pool.set_from_flat_data_page(index, torch.zeros_like(pool.get_dummy_flat_data_page()))
        return super().batch_set_v1(keys, host_indices, extra_info)
