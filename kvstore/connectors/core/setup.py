"""From what an engine's operator wrote to settings, with errors that say what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kvstore.config import ConnectorConfig
from kvstore.errors import ConfigError

__all__ = ["load_config", "read_tenant_secret"]


def load_config(given: Mapping[str, object]) -> ConnectorConfig:
    """The settings in `given` over those of the environment and of the file that `KVSTORE_CONFIG` names, if any.

    Raises `ConfigError`, naming the setting, for one that is unknown, out of range or missing.
    """
    config = ConnectorConfig.load(file=os.environ.get("KVSTORE_CONFIG"), overrides=given)
    if not config.endpoint:
        raise ConfigError("endpoint is not set: give the address of a node, such as kv://127.0.0.1:7400")
    return config


def read_tenant_secret(config: ConnectorConfig) -> bytes:
    """The bytes of `tenant_secret_file`, b"" where there is none. Raises `ConfigError` for a file of no use."""
    if not config.tenant_secret_file:
        return b""
    try:
        secret = Path(config.tenant_secret_file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"tenant_secret_file cannot be read: {error}") from error
    if len(secret) < 16:
        raise ConfigError(f"tenant_secret_file {config.tenant_secret_file!r} has {len(secret)} bytes; 16 are the least")
    return secret
