"""Rank 1 of a two-rank engine in its own process: `python -m ... ENDPOINT`, with a pickled (plan, blocks) as input.

Carries out the plan and prints the first byte of each of the blocks.
"""

from __future__ import annotations

import json
import pickle
import sys

import torch

from tests.connectors.tensorrt_llm import fake
from tests.connectors.tensorrt_llm.engine import HEAD_SIZE, HEADS, LAYERS, KVStoreWorker, arguments, environment


def main(endpoint: str) -> None:
    fake.set_rank(1)
    with environment(endpoint, {}):
        worker = KVStoreWorker(arguments(ranks=2))
    pool = torch.zeros(64, LAYERS, 2, HEADS * 16 * HEAD_SIZE)
    worker.register_kv_caches(pool)
    plan, blocks = pickle.load(sys.stdin.buffer)
    worker.bind_connector_meta(plan)
    worker.start_load_kv(None)
    print(json.dumps(pool.view(64, -1).view(torch.uint8)[blocks, 0].tolist()))
    worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
