"""From what an operator wrote to settings, and what the operator is told when that will not do."""

from __future__ import annotations

import pytest

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import load_config, read_tenant_secret
from kvstore.errors import ConfigError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("KVSTORE_CONFIG", "KVSTORE_CONNECTOR_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    """Writes the file that KVSTORE_CONFIG names."""

    def write(text):
        file = tmp_path / "kvstore.toml"
        file.write_text(text)
        monkeypatch.setenv("KVSTORE_CONFIG", str(file))

    return write


def test_what_the_engine_was_given_wins_over_environment_and_file(settings_file, monkeypatch):
    settings_file('[connector]\nendpoint = "kv://file:1"\nlane = "tcp"\nmodel = "file"\n')
    monkeypatch.setenv("KVSTORE_CONNECTOR_MODEL", "environment")
    monkeypatch.setenv("KVSTORE_CONNECTOR_LOAD_TIMEOUT_MS", "2s")
    config = load_config({"endpoint": "kv://given:1", "revision": None})
    assert (config.endpoint, config.lane, config.model, config.revision) == ("kv://given:1", "tcp", "environment", "")
    assert config.load_timeout_ms == 2000


def test_the_environment_alone_will_do(monkeypatch):
    monkeypatch.setenv("KVSTORE_CONNECTOR_ENDPOINT", "kv://127.0.0.1:7400")
    assert load_config({}) == ConnectorConfig(endpoint="kv://127.0.0.1:7400")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "endpoint is not set: give the address of a node, such as kv://127.0.0.1:7400"),
        ({"endpoint": ""}, "endpoint is not set"),
        ({"endpoint": "kv://a:1", "save_byte": 5}, "setting save_byte: .* did you mean save_bytes"),
        ({"endpoint": "kv://a:1", "lane": "pigeon"}, "lane must be one of auto"),
        ({"endpoint": "kv://a:1", "load_timeout_ms": 0}, "load_timeout_ms must be from 1 ms"),
        ({"endpoint": "kv://a:1", "cost_gate": "maybe"}, "setting cost_gate: 'maybe' is neither true nor false"),
    ],
)
def test_settings_of_no_use_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        load_config(given)


def test_a_file_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("KVSTORE_CONFIG", "/nowhere/kvstore.toml")
    with pytest.raises(ConfigError, match="/nowhere/kvstore.toml"):
        load_config({"endpoint": "kv://a:1"})


def secret_of(path):
    return read_tenant_secret(ConnectorConfig(endpoint="kv://a:1", tenant_secret_file=str(path)))


def test_a_tenant_secret_is_the_bytes_of_its_file_without_white_space_around(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"  0123456789 bcdef\n")
    assert secret_of(file) == b"0123456789 bcdef"
    assert read_tenant_secret(ConnectorConfig()) == b""


def test_a_tenant_secret_of_no_use_is_refused_and_never_shown(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"hunter2\n")
    with pytest.raises(ConfigError, match="has 7 bytes; 16 are the least") as caught:
        secret_of(file)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match="tenant_secret_file cannot be read: .*missing"):
        secret_of(tmp_path / "missing")
    with pytest.raises(ConfigError, match="cannot be read"):
        secret_of(tmp_path)
