"""The page for Prometheus: every counter, in the right kind, and only where it was asked for."""

import asyncio
import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import kvstore
from kvstore.config import ClientConfig, NodeConfig
from kvstore.errors import ConfigError
from kvstore.server import NodeServer
from tests.node_process import some_blocks, some_keys


def families(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        return {family.name: family for family in text_string_to_metric_families(page.read().decode())}


def value(found, name, **labels):
    return next(sample.value for sample in found[name].samples if sample.labels == labels)


async def test_every_counter_of_both_tiers(tmp_path):
    disk = {"disk": str(tmp_path / "disk"), "disk_bytes": 16 << 20}
    config = NodeConfig(listen="127.0.0.1:0", metrics="127.0.0.1:0", memory_bytes=16 << 20, **disk)
    async with NodeServer(config) as server:
        assert str(server.metrics_address) in server.describe()

        def use():
            with kvstore.connect(f"kv://{server.address}") as store:
                assert store.put(some_keys(4), some_blocks(4), durable=True).all_ok
                assert store.get(some_keys(5), np.zeros((5, 4096), np.uint8)).ok.sum() == 4
                return store.stats()["node"], families(server.metrics_address)

        counters, found = await asyncio.to_thread(use)
    assert value(found, "kvstore_blocks", tier="dram") == value(found, "kvstore_blocks", tier="nvme") == 4
    assert value(found, "kvstore_hits", tier="dram") == 4
    assert found["kvstore_hits"].type == "counter"
    assert found["kvstore_used_bytes"].type == "gauge"
    assert value(found, "kvstore_write_queue_bytes") == 0
    in_page = sum(len([s for s in family.samples if not s.name.endswith("_created")]) for family in found.values())
    assert in_page == len(set(counters) - {"node_id", "version", "uptime_ms"})


async def test_no_page_unless_asked_for():
    async with NodeServer(NodeConfig(listen="127.0.0.1:0", memory_bytes=1 << 20)) as server:
        assert server.metrics_address is None
        assert "metrics" not in server.describe()


async def test_a_port_that_is_taken_is_a_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics cannot be served on 127.0.0.1:{port}.*choose another"):
            async with NodeServer(NodeConfig(listen="127.0.0.1:0", metrics=f"127.0.0.1:{port}", memory_bytes=1 << 20)):
                pass


async def test_every_counter_says_whose_it_is_where_there_are_tenants(tmp_path):
    lines = []
    for name in ("search", "chat"):
        (tmp_path / name).write_text(name * 8)
        lines += [f"[tenants.{name}]", f"token_file = '{tmp_path / name}'", "memory = '4MiB'"]
    (tmp_path / "tenants.toml").write_text("\n".join(lines))
    config = NodeConfig(
        listen="127.0.0.1:0", metrics="127.0.0.1:0", memory_bytes=8 << 20, tenants=str(tmp_path / "tenants.toml")
    )
    async with NodeServer(config) as server:
        assert "2 tenants" in server.describe()

        def use():
            settings = ClientConfig(token_file=str(tmp_path / "chat"))
            with kvstore.connect(f"kv://{server.address}", config=settings) as store:
                assert store.put(some_keys(4), some_blocks(4)).all_ok
            return families(server.metrics_address)

        found = await asyncio.to_thread(use)
    assert value(found, "kvstore_blocks", tier="dram", tenant="chat") == 4
    assert value(found, "kvstore_blocks", tier="dram", tenant="search") == 0
    assert value(found, "kvstore_puts", tenant="chat") == 4
    assert value(found, "kvstore_capacity_bytes", tier="dram", tenant="search") == 4 << 20
