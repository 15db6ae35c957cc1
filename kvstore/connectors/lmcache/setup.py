"""From `adapter_params` to settings."""

from __future__ import annotations

from collections.abc import Mapping

from kvstore.config import ConnectorConfig
from kvstore.connectors.core import load_config

__all__ = ["load_adapter_config"]

_NO_LIMIT_BYTES = 1 << 44


def load_adapter_config(params: Mapping[str, object]) -> ConnectorConfig:
    """As `load_config`, but saves are limited only where `params` say so.

    What is on its way to the node lies in LMCache's L1, which is the limit, and stays there until it has arrived: to
    drop it would make no room, only a hole in the prompt.
    """
    return load_config({"save_bytes": _NO_LIMIT_BYTES, **params})
