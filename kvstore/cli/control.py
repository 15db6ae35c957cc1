"""The control plane of the node that a command is about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kvstore.client.url import parse_node_url
from kvstore.config import ClientConfig
from kvstore.transport.control import ControlPlane
from kvstore.transport.tenant_token import read_token

__all__ = ["open_control"]


@contextlib.contextmanager
def open_control(url: str, token_file: str | None) -> Iterator[ControlPlane]:
    """Calls on a node, as the tenant of the token file or of the client's settings. Raises `ConfigError`."""
    file = ClientConfig.load(overrides={"token_file": token_file}).token_file
    control = ControlPlane(parse_node_url(url), read_token(file) if file else "")
    try:
        yield control
    finally:
        control.close()
