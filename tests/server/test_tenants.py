"""Several tenants on one node: each its own blocks and quotas, known by a token and by nothing else."""

import dataclasses

import numpy as np
import pytest

import kvstore
from kvstore import Status
from kvstore.config import ClientConfig, NodeConfig
from kvstore.errors import ConfigError
from kvstore.server.tenants import find_tenant, load_tenants
from tests.support.blocks import assert_same, block, blocks, chain
from tests.support.disk_node import DiskNode
from tests.support.node import ALL_LANES, RDMA_SETTING
from tests.test_cli import run as run_cli

SIZE = 100_000
MIB = 1 << 20
TOKENS = {"search": "s" * 20, "chat": "c" * 20}


def write_tenants(folder, **changes):
    """The file and one file a token; `changes` replace lines of the tenant "chat"."""
    lines = []
    for name, token in TOKENS.items():
        (folder / name).write_text(f"{token}\n")
        table = {"token_file": str(folder / name), "memory": "8MiB", "disk_size": "32MiB"}
        if name == "chat":
            table = {key: value for key, value in {**table, **changes}.items() if value is not None}
        lines += [f"[tenants.{name}]", *(f"{key} = {value!r}" for key, value in table.items())]
    file = folder / "tenants.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def node(tmp_path):
    file = write_tenants(tmp_path)
    (tmp_path / "disk").mkdir()
    settings = f'tenants = "{file}"\n{RDMA_SETTING}'
    with DiskNode(tmp_path, disk_size="64MiB", settings=settings) as running:
        running.token = TOKENS["search"]
        yield running


def connect(node, tenant, **settings):
    token_file = str(node.disk.parent / tenant) if tenant else ""
    config = ClientConfig(timeout_ms=20_000, connect_timeout_ms=5000, token_file=token_file, **settings)
    return kvstore.connect(node.url, config=config)


class TestSeveralOnOneNode:
    @pytest.mark.parametrize("lane", ALL_LANES)
    def test_one_sees_and_changes_nothing_of_the_other(self, node, lane):
        names = chain(f"tenants over {lane}", 5)
        buffers = np.zeros((5, SIZE), np.uint8)
        with connect(node, "search", lane=lane) as search, connect(node, "chat", lane=lane) as chat:
            assert search.put(names, blocks(names, SIZE)).all_ok
            assert chat.match(names) == 0
            assert not chat.exists(names).any()
            assert not chat.delete(names).any()
            assert not chat.get(names, buffers).ok.any()
            # The same names with other bytes are no conflict: they are not the same blocks.
            assert chat.put(names, blocks(names, SIZE, version=1)).cause.tolist() == [Status.OK] * 5
            for store, version in ((search, 0), (chat, 1)):
                assert store.get(names, buffers).all_ok
                for name, found in zip(names, buffers, strict=True):
                    assert_same(found, block(name, SIZE, version))

    def test_one_fills_its_quota_and_the_other_keeps_its_blocks(self, node):
        names, many = chain("few", 5), chain("many", 1000)
        with connect(node, "search") as search, connect(node, "chat") as chat:
            assert search.put(names, blocks(names, SIZE), durable=True).all_ok
            for at in range(0, 1000, 20):
                assert chat.put(many[at : at + 20], blocks(many[at : at + 20], SIZE)).all_ok
            assert chat.flush()
            counters = chat.stats()["node"]
            assert counters["evicted_blocks"] > 0
            assert counters["nvme_evicted_blocks"] > 0
            assert counters["capacity_bytes"] == 8 * MIB
            assert counters["nvme_capacity_bytes"] <= 32 * MIB
            mine = search.stats()["node"]
            assert (mine["evicted_blocks"], mine["nvme_evicted_blocks"], mine["blocks"]) == (0, 0, 5)
            assert search.match(names) == 5

    def test_pins_of_one_leave_the_share_of_the_other(self, node):
        names = chain("pinned", 200)
        with connect(node, "search") as search, connect(node, "chat") as chat:
            for store in (search, chat):
                assert store.put(names, blocks(names, SIZE), durable=True).all_ok
                pinned = store.pin(names, owner="me", ttl_s=60)
                assert Status.BUSY in pinned.status.tolist()
                assert 0.4 * 32 * MIB < store.stats()["node"]["pinned_bytes"] <= 0.5 * 32 * MIB

    def test_blocks_of_each_outlive_the_node(self, node):
        names = chain("durable", 5)
        with connect(node, "search") as search, connect(node, "chat") as chat:
            assert search.put(names, blocks(names, SIZE), durable=True).all_ok
            assert chat.put(names, blocks(names, SIZE, version=1), durable=True).all_ok
        node.kill()
        node.start()
        buffers = np.zeros((5, SIZE), np.uint8)
        for tenant, version in (("search", 0), ("chat", 1)):
            with connect(node, tenant) as store:
                assert store.get(names, buffers).all_ok
                for name, found in zip(names, buffers, strict=True):
                    assert_same(found, block(name, SIZE, version))

    def test_who_has_no_token_of_a_tenant_is_refused(self, node, tmp_path):
        with pytest.raises(ConfigError, match=r"refused this client: .* set token_file"):
            connect(node, "")
        (tmp_path / "stranger").write_text("x" * 20)
        with pytest.raises(ConfigError, match="token is none of theirs"):
            connect(node, "stranger")

    def test_operators_ask_for_one_tenant(self, node, tmp_path):
        names = chain("cli", 5)
        with connect(node, "chat") as chat:
            assert chat.put(names, blocks(names, SIZE)).all_ok
        refused = run_cli("stats", node.url)
        assert refused.returncode != 0
        assert "token_file" in refused.stderr
        assert '"blocks": 5' in run_cli("stats", node.url, "--json", "--token-file", str(tmp_path / "chat")).stdout
        assert '"blocks": 0' in run_cli("stats", node.url, "--json", "--token-file", str(tmp_path / "search")).stdout
        assert run_cli("flush", node.url, "--token-file", str(tmp_path / "chat")).returncode == 0
        assert "freed" in run_cli("evict", node.url, "1MiB", "--token-file", str(tmp_path / "chat")).stdout


class TestTheFile:
    @pytest.fixture
    def config(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        disks = f"{tmp_path}/a,{tmp_path}/b"
        file = str(tmp_path / "tenants.toml")
        return NodeConfig(
            memory_bytes=64 * MIB, disk=disks, disk_bytes=128 * MIB, data_port=7500, threads=2, tenants=file
        )

    def test_each_tenant_has_the_settings_of_its_data_plane(self, config, tmp_path):
        write_tenants(tmp_path, pin_share=10, disk_size="64MiB")
        search, chat = load_tenants(config)
        assert (search.name, chat.name) == ("search", "chat")
        assert search.config.disk == f"{tmp_path}/a/tenant-search,{tmp_path}/b/tenant-search"
        assert (search.config.memory_bytes, chat.config.disk_bytes) == (8 * MIB, 64 * MIB)
        assert (search.config.pin_share, chat.config.pin_share) == (50, 10)
        assert (search.config.data_port, chat.config.data_port) == (7500, 7502)
        assert TOKENS["search"] not in repr(search)

    def test_a_token_names_its_tenant(self, config, tmp_path):
        write_tenants(tmp_path)
        tenants = load_tenants(config)
        for name, token in TOKENS.items():
            assert find_tenant(tenants, token).name == name
        assert find_tenant(tenants, "") is None
        assert find_tenant(tenants, "s" * 21) is None

    def test_without_a_file_there_is_one_tenant_who_needs_no_token(self, config):
        alone = dataclasses.replace(config, tenants="")
        (only,) = load_tenants(alone)
        assert only.config is alone
        assert find_tenant([only], "") is only

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"memory": None}, r"\[tenants.chat\]: memory is missing"),
            ({"disk_size": None}, r"\[tenants.chat\]: disk_size is missing"),
            ({"token_file": None}, r"\[tenants.chat\]: token_file is missing"),
            ({"token_file": "/no/such/file"}, r"\[tenants.chat\]: token file '/no/such/file' cannot be read"),
            ({"memory": "much"}, r"\[tenants.chat\]: 'much' is not a size"),
            ({"memory": "57MiB"}, "tenants' memory add up to 65 MiB, and the node has 64 MiB"),
            ({"disk_size": "1GiB"}, "tenants' disk_size add up to"),
            ({"quota": "1GiB"}, r"\[tenants.chat\]: a tenant has disk_size, memory, pin_share, token_file"),
            ({"pin_share": 101}, r"\[tenants.chat\]: pin_share must be from 0 to 100"),
        ],
    )
    def test_what_is_wrong_is_said(self, config, tmp_path, changes, message):
        write_tenants(tmp_path, **changes)
        with pytest.raises(ConfigError, match=message):
            load_tenants(config)

    def test_tokens_must_differ_and_be_long(self, config, tmp_path):
        write_tenants(tmp_path)
        (tmp_path / "chat").write_text(TOKENS["search"])
        with pytest.raises(ConfigError, match="two tenants have the same token"):
            load_tenants(config)
        (tmp_path / "chat").write_text("short")
        with pytest.raises(ConfigError, match=r"\[tenants.chat\]: token file .* 16 to 4,096"):
            load_tenants(config)

    @pytest.mark.parametrize("text", ["", "[tenants]", "[node]", "nonsense", "[tenants.UPPER]\nmemory = '1MiB'"])
    def test_a_file_of_no_use_is_refused(self, config, tmp_path, text):
        (tmp_path / "tenants.toml").write_text(text)
        with pytest.raises(ConfigError, match=r"tenants\.toml"):
            load_tenants(config)

    def test_disks_must_be_there_and_nobody_elses(self, config, tmp_path):
        write_tenants(tmp_path)
        with DiskNode(tmp_path, disks=[tmp_path / "a"], disk_size="32MiB"):
            pass
        with pytest.raises(ConfigError, match="/a holds the blocks of a node without tenants"):
            load_tenants(config)
        (tmp_path / "b").rmdir()
        with pytest.raises(ConfigError, match="/b is no directory"):
            load_tenants(dataclasses.replace(config, disk=f"{tmp_path}/b"))
