"""Settings: sources and their precedence, units, refusals, and the generated reference page."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.config import (
    ClientConfig,
    ConnectorConfig,
    NodeConfig,
    format_bytes,
    parse_bytes,
    parse_ms,
    parse_us,
    settings_markdown,
)
from kvstore.errors import ConfigError

ROOT = Path(__file__).parents[1]
MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def load(config, file=None, environment=None, **overrides):
    return config.load(file, environment=environment or {}, overrides=overrides)


def test_defaults():
    node = load(NodeConfig)
    assert node == NodeConfig()
    assert (node.listen, node.memory_bytes, node.max_block_bytes) == ("127.0.0.1:7400", 4 * GIB, 64 << 20)
    assert (node.listen_host, node.listen_port) == ("127.0.0.1", 7400)
    assert not node.insecure
    client = load(ClientConfig)
    assert client == ClientConfig()
    assert (client.timeout_ms, client.connect_timeout_ms, client.lane) == (2000, 2000, "auto")


def test_later_sources_win(file):
    path = file('[node]\nmemory = "1GiB"\nthreads = 1\nspin_us = 1\n[client]\nlane = "tcp"\n')
    environment = {"KVSTORE_NODE_THREADS": "2", "KVSTORE_NODE_SPIN_US": "2us", "KVSTORE_CLIENT_LANE": "shm"}
    node = load(NodeConfig, path, environment, spin_us=3, memory=None)
    assert (node.memory_bytes, node.threads, node.spin_us) == (GIB, 2, 3)
    assert load(ClientConfig, path).lane == "tcp"
    assert load(ClientConfig, path, environment).lane == "shm"
    assert load(ClientConfig, path, environment, lane="mapped").lane == "mapped"


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setenv("KVSTORE_CLIENT_TIMEOUT_MS", "1.5s")
    assert ClientConfig.load().timeout_ms == 1500
    monkeypatch.setenv("KVSTORE_CLIENT_TIMEOUT", "1")
    with pytest.raises(ConfigError, match="environment variable KVSTORE_CLIENT_TIMEOUT: .* did you mean timeout_ms"):
        ClientConfig.load()
    assert NodeConfig.load() == NodeConfig()


def test_every_setting_can_come_from_every_source(file):
    values = {
        NodeConfig: {
            "listen": "[::1]:0",
            "memory": 1 << 20,
            "max_block_bytes": 8192,
            "threads": 3,
            "data_port": 7500,
            "rdma": "off",
            "huge_pages": False,
            "prefault": True,
            "spin_us": 0,
            "capability_ttl_ms": 500,
            "disk": "/mnt/nvme0,/mnt/nvme1",
            "disk_size": 64 << 20,
            "admission": "after-first-reuse",
            "disk_io": "threads",
            "shutdown_flush_ms": 0,
            "pin_share": 10,
            "metrics": "127.0.0.1:9400",
            "tenants": "tenants.toml",
            "runtime_dir": "run",
            "insecure": True,
            "log_level": "debug",
        },
        ClientConfig: {
            "timeout_ms": 7,
            "connect_timeout_ms": 8,
            "lane": "tcp",
            "token_file": "token",
            "spin_us": 9,
            "reconnect_backoff_ms_max": 10,
            "max_block_bytes": 4096,
        },
    }
    for config, settings in values.items():
        assert len(settings) == len(dataclasses.fields(config))
        fields = {"memory": "memory_bytes", "disk_size": "disk_bytes"}
        expected = config(**{fields.get(key, key): value for key, value in settings.items()})
        toml = {
            key: repr(value) if not isinstance(value, bool) else str(value).lower() for key, value in settings.items()
        }
        text = "".join(f"{key} = {value}\n" for key, value in toml.items())
        assert load(config, file(f"[{config.section}]\n{text}")) == expected
        prefix = f"KVSTORE_{config.section.upper()}_"
        assert (
            load(config, environment={prefix + key.upper(): str(value) for key, value in settings.items()}) == expected
        )
        assert load(config, **settings) == expected
        assert all(getattr(expected, f.name) != f.default for f in dataclasses.fields(config))


def test_settings_are_few_and_each_has_a_unit_and_help():
    settings = [*dataclasses.fields(NodeConfig), *dataclasses.fields(ClientConfig)]
    assert len(settings) <= 30
    settings += dataclasses.fields(ConnectorConfig)
    for setting in settings:
        kind = setting.metadata["kind"]
        assert setting.metadata["help"].endswith("."), setting.name
        assert kind not in {"bytes", "ms", "us"} or f"_{kind}" in setting.name, setting.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node]\nmemroy = 5", r"settings.toml, \[node\] memroy: there is no such setting; did you mean memory\?"),
        ("[node]\nxyzzy = 5", "the settings are listen, memory, "),
        ("[node]\nmemory_bytes = 5", "did you mean memory"),
        ("[nodes]\nmemory = 5", "'nodes' is not one of the tables node, client"),
        ("memory = 5", "'memory' is not one of the tables"),
        ("[node]\nmemory = 1.5", r"\[node\] memory: 1.5 is not a size"),
        ("[node]\nthreads = true", "threads: True is not a whole number"),
        ("[node]\nthreads = 1.0", "threads: 1.0 is not a whole number"),
        ("[node]\ninsecure = 1", "insecure: 1 is neither true nor false"),
        ("[node]\nlisten = 7400", "listen: 7400 is not a string"),
        ("[node\n", "cannot be read"),
        ("[node]\nmemory = 5\nmemory = 6", "cannot be read"),
    ],
)
def test_bad_files_are_refused(file, text, message):
    with pytest.raises(ConfigError, match=message):
        load(NodeConfig, file(text))


def test_a_missing_or_undecodable_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="absent.toml' cannot be read"):
        load(NodeConfig, tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(NodeConfig, tmp_path / "binary.toml")


def test_a_file_is_checked_for_the_table_that_is_loaded(file):
    path = file('[client]\nlane = "carrier pigeon"\n')
    assert load(NodeConfig, path) == NodeConfig()
    with pytest.raises(ConfigError, match="lane must be one of auto, mapped, .*, tcp, not 'carrier pigeon'"):
        load(ClientConfig, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_bytes": 1}, "memory must be from 64 KiB to 16 TiB, not 1"),
        ({"max_block_bytes": 4095}, "max_block_bytes must be from 4 KiB to 64 MiB, not 4095"),
        ({"max_block_bytes": (64 << 20) + 1}, "max_block_bytes must be"),
        ({"threads": -1}, "threads must be from 0 to 64"),
        ({"threads": True}, "threads must be of type int, not True"),
        ({"spin_us": "200us"}, "spin_us must be of type int"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error"),
        ({"insecure": 1}, "insecure must be of type bool"),
        ({"data_port": 65535, "threads": 2}, "data_port 65535 leaves no room for 2 threads' ports"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        NodeConfig(**settings)


@pytest.mark.parametrize(
    ("disk", "size_bytes", "disks"),
    [
        ("", 0, []),
        ("/mnt/nvme", 16 * MIB, [("/mnt/nvme", 16 * MIB)]),
        ("relative", 200 * GIB, [("relative", 200 * GIB)]),
        ("/a, /b", 100 * MIB, [("/a", 50 * MIB), ("/b", 50 * MIB)]),
        ("/a,/b,/c", 100 * MIB, [(path, 34_951_168) for path in ("/a", "/b", "/c")]),
    ],
)
def test_disks_share_the_space_evenly_in_whole_pages(disk, size_bytes, disks):
    assert NodeConfig(disk=disk, disk_bytes=size_bytes).disks == disks
    assert all(share % 4096 == 0 for _, share in disks)
    assert sum(share for _, share in disks) <= size_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disk": "/a"}, "disk_size is needed with disk.*such as 200GiB.*at least 16 MiB for each of 1"),
        ({"disk": "/a,/b", "disk_bytes": 31 * MIB}, "disk_size 31 MiB is too little.*at least 16 MiB for each of 2"),
        ({"disk_bytes": GIB}, "disk_size is set, but disk names no directory"),
        ({"disk": "/a,", "disk_bytes": GIB}, "has an empty directory"),
        ({"disk": " ", "disk_bytes": GIB}, "has an empty directory"),
        ({"disk": "/a,/b,/a", "disk_bytes": GIB}, "names '/a' more than once"),
        ({"disk": "a,./b/../a/", "disk_bytes": GIB}, "more than once"),
        ({"disk": "/a", "disk_bytes": 1 << 51}, "disk_size must be from 0 B to"),
        ({"admission": "never"}, "admission must be one of eager, after-first-reuse, off"),
        ({"disk_io": "aio"}, "disk_io must be one of auto, io_uring, threads"),
        ({"pin_share": 101}, "pin_share must be from 0 to 100"),
        ({"shutdown_flush_ms": 3_600_001}, "shutdown_flush_ms must be"),
    ],
)
def test_disks_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        NodeConfig(**settings)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:7400", "127.0.0.1", 7400), ("localhost:0", "127.0.0.1", 0), ("[::1]:65535", "::1", 65535)],
)
def test_addresses(listen, host, port):
    node = NodeConfig(listen=listen)
    assert (node.listen_host, node.listen_port) == (host, port)


@pytest.mark.parametrize(
    "listen",
    [
        *("", "7400", ":7400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536"),
        *("127.0.0.1:+5", "127.0.0.1:٣", "::1:7400", "[127.0.0.1]:7400", "[::1]7400", "node:7400", "kv://127.0.0.1:1"),
    ],
)
def test_malformed_addresses_are_refused(listen):
    with pytest.raises(ConfigError, match="must be a numeric address"):
        NodeConfig(listen=listen)


@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400", "192.168.1.5:7400", "[fe80::1]:7400"])
def test_only_loopback_without_insecure(listen):
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        NodeConfig(listen=listen)
    assert NodeConfig(listen=listen, insecure=True).listen == listen
    with pytest.raises(ConfigError, match="metrics .* can be reached from other machines"):
        NodeConfig(metrics=listen)


def test_the_address_of_the_metrics():
    assert NodeConfig().metrics_address is None
    assert NodeConfig(metrics="localhost:0").metrics_address == ("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="metrics '9400' must be a numeric address"):
        NodeConfig(metrics="9400")


def test_thread_count_is_half_of_the_cores_within_one_and_four(monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cores=cores: set(range(cores)))
        assert NodeConfig().thread_count == threads
    assert NodeConfig(threads=9).thread_count == 9


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_bytes, "4GiB", 4 * GIB),
        (parse_bytes, "512 MiB", 512 << 20),
        (parse_bytes, "4GB", 4 * 10**9),
        (parse_bytes, "1.5KiB", 1536),
        (parse_bytes, " 65536 ", 65536),
        (parse_bytes, "7B", 7),
        (parse_bytes, 65536, 65536),
        (parse_ms, "2s", 2000),
        (parse_ms, "500ms", 500),
        (parse_ms, "0.25s", 250),
        (parse_ms, "1min", 60_000),
        (parse_ms, "1000", 1000),
        (parse_us, "200us", 200),
        (parse_us, "1ms", 1000),
        (parse_us, 5, 5),
    ],
)
def test_quantities(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((parse_bytes, text) for text in ("", "GiB", "-1", "4gib", "4 G", "1e9", "0x10", "4GiB4", "٤GiB", "1" * 65)),
        *((parse_bytes, value) for value in (-1, 1.5, True, None, b"4GiB")),
        *((parse_ms, text) for text in ("2h", "2S", "s", "1,5s", "200us")),
        (parse_us, "2min"),
    ],
)
def test_malformed_quantities_are_refused(parse, text):
    with pytest.raises(ConfigError, match="is not a (size|duration); write a number"):
        parse(text)


@pytest.mark.parametrize(("parse", "text"), [(parse_bytes, "0.3B"), (parse_ms, "0.5ms"), (parse_us, "0.1us")])
def test_quantities_are_never_rounded(parse, text):
    with pytest.raises(ConfigError, match="finer than the unit"):
        parse(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        *((0, "0 B"), (100, "100 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (GIB - 1, "1 GiB")),
        *((4 * GIB, "4 GiB"), (5 << 40, "5 TiB"), (5 << 50, "5120 TiB")),
    ],
)
def test_format_bytes(size_bytes, text):
    assert format_bytes(size_bytes) == text


@given(st.integers(0, 1023), st.integers(0, 4))
def test_formatted_whole_units_read_back(number, power):
    assert parse_bytes(format_bytes(number << 10 * power)) == number << 10 * power


def test_the_reference_page_is_up_to_date():
    page = settings_markdown()
    assert (ROOT / "docs" / "SETTINGS.md").read_text() == page, "run `make docs`"
    for config in (NodeConfig, ClientConfig):
        for setting in dataclasses.fields(config):
            assert setting.metadata["help"] in page
