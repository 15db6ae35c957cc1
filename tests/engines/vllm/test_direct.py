"""The direct path piece by piece: pages, what is refused, and what a failed load leaves behind."""

import contextlib
import dataclasses
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

import torch
from vllm.v1.kv_offload.base import LookupResult, ScheduleEndContext

from kvstore.connectors.vllm import KVStoreConnector, KVStoreOffloadingSpec
from kvstore.connectors.vllm.pages import Pages
from kvstore.errors import ConfigError
from tests.connectors.driver import Identity
from tests.engines.vllm.driver import DirectDriver, offloading_config
from tests.node_process import wait_until

ENDPOINT = {"endpoint": "kv://127.0.0.1:1"}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_blocks_of_several_groups_come_back_where_they_were(device):
    """Two groups that share memory, one of which uses a part of a page; a page in a wider allocation."""
    source = torch.Generator().manual_seed(1)
    wide = torch.randint(-128, 128, (8, 96), dtype=torch.int8, generator=source).to(device)
    tensors = [wide[:, :64], torch.randint(-128, 128, (8, 32), dtype=torch.int8, generator=source).to(device)]
    pages = Pages(tensors, [[(0, 64), (1, 32)], [(1, 24)]])
    assert pages.block_bytes == [96, 24]
    blocks = [[5, 2], [7]]
    before = [one.clone() for one in (wide, tensors[1])]
    rows = pages.empty_rows(3)
    copy = pages.gather(blocks, rows)
    copy.wait()
    assert copy.is_done
    assert torch.equal(rows[0], torch.cat([wide[5, :64], tensors[1][5]]).cpu())
    assert torch.equal(rows[2, :24], tensors[1][7, :24].cpu())
    for block in (5, 2):
        wide[block, :64] = 0
        tensors[1][block] = 0
    tensors[1][7, :24] = 0
    pages.scatter(rows, blocks).wait()
    assert torch.equal(wide, before[0])
    assert torch.equal(tensors[1], before[1])


def test_a_connector_that_cannot_report_failures_is_refused():
    spec = KVStoreOffloadingSpec(offloading_config(Identity(), kvstore=ENDPOINT))
    with pytest.raises(ConfigError, match="KVStoreConnector"):
        spec.get_worker(SimpleNamespace(tensors=[], group_data_refs=[]))


def test_a_policy_that_fails_requests_is_refused():
    vllm_config = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_load_failure_policy="fail"))
    with pytest.raises(ConfigError, match="recompute"):
        KVStoreConnector(vllm_config, None, None)


@pytest.mark.parametrize("change", [{"canonical_layout": True}, {"blocks_per_chunk": 4}])
def test_other_layouts_are_refused(change):
    config = offloading_config(Identity(), kvstore=ENDPOINT)
    if "blocks_per_chunk" in change:
        change = {"cache": dataclasses.replace(config.cache, **change)}
    with pytest.raises(ConfigError, match="blocks_per_chunk"):
        KVStoreOffloadingSpec(dataclasses.replace(config, **change))


def test_what_could_not_be_loaded_is_not_promised_again(node):
    with contextlib.closing(DirectDriver(node.url, Identity(), {})) as driver:
        driver.save(1, 12)
        context, keys = driver.request(1, 12)

        def answers():
            driver.scheduler.on_schedule_end(ScheduleEndContext((), ()))
            return {driver.scheduler.lookup(key, context) for key in keys}

        wait_until(lambda: answers() == {LookupResult.HIT}, "the blocks are found")
        driver.scheduler.prepare_load(keys, context)
        driver.scheduler.load_failed(context.req_id)
        assert answers() == {LookupResult.MISS}


def test_a_rank_that_lacks_blocks_is_a_miss_for_all(node):
    def rank(number):
        return contextlib.closing(DirectDriver(node.url, Identity(rank=number, world_size=2), {}))

    with rank(0) as first, rank(1) as second:
        assert first.save(1, 12) == 12
        assert first.lookup(1, 12) == 0
        assert second.save(1, 5) == 5
        assert first.lookup(1, 12) == 5
        assert second.lookup(1, 12) == 5
