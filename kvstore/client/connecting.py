"""From an address to a client."""

from __future__ import annotations

import dataclasses
import functools

from kvstore.client.async_client import AsyncClient
from kvstore.client.client import Client
from kvstore.client.embedded import EmbeddedSession
from kvstore.client.polled_client import PolledClient
from kvstore.client.session import NodeSession, Session
from kvstore.client.url import parse_url
from kvstore.config import ClientConfig
from kvstore.errors import InvalidArgumentError
from kvstore.transport.address import NodeAddress
from kvstore.transport.entropy import new_jitter

__all__ = ["connect", "connect_async", "connect_polled"]


def connect(
    url: str,
    *,
    timeout_ms: int | None = None,
    lane: str | None = None,
    config: ClientConfig | None = None,
    may_be_away: bool = False,
) -> Client:
    """Opens a session with a node (`kv://host:port`) or with a store in this process (`embedded://?memory=1GiB`).

    - `timeout_ms`: how long to wait for the node here, and the default deadline of every later call;
    - `lane`: "mapped", "shm", "rdma" or "tcp" instead of the best that works ("auto");
    - `config`: all settings of the client, a `kvstore.config.ClientConfig`; where not given, those of the environment
      (`KVSTORE_CLIENT_...`);
    - `may_be_away`: a node that does not answer is no error; it is looked for until it is there, and everything is a
      miss meanwhile.

    Raises `ConnectError` when the node does not answer in time, `VersionMismatchError` when it speaks another version,
    `InvalidArgumentError`, `UnknownSchemeError` or `ConfigError` for an address or a setting that cannot be used.
    """
    settings = _settings(timeout_ms, lane, config)
    return Client(_open(url, settings, may_be_away=may_be_away), timeout_ms=settings.timeout_ms)


async def connect_async(
    url: str, *, timeout_ms: int | None = None, lane: str | None = None, config: ClientConfig | None = None
) -> AsyncClient:
    """As `connect`, for the running event loop."""
    settings = _settings(timeout_ms, lane, config)
    return await AsyncClient.open(functools.partial(_open, url, settings), timeout_ms=settings.timeout_ms)


def connect_polled(
    url: str,
    *,
    timeout_ms: int | None = None,
    lane: str | None = None,
    config: ClientConfig | None = None,
    may_be_away: bool = False,
) -> PolledClient:
    """As `connect`, for a loop that polls."""
    settings = _settings(timeout_ms, lane, config)
    return PolledClient(_open(url, settings, may_be_away=may_be_away), timeout_ms=settings.timeout_ms)


def _settings(timeout_ms: int | None, lane: str | None, config: ClientConfig | None) -> ClientConfig:
    settings = config if config is not None else ClientConfig.load()
    if not isinstance(settings, ClientConfig):
        raise InvalidArgumentError(f"config must be a kvstore.config.ClientConfig, not {type(settings).__name__}")
    if timeout_ms is not None:
        settings = dataclasses.replace(settings, timeout_ms=timeout_ms, connect_timeout_ms=timeout_ms)
    return settings if lane is None else dataclasses.replace(settings, lane=lane)


def _open(url: str, config: ClientConfig, *, may_be_away: bool = False) -> Session:
    address = parse_url(url)
    if isinstance(address, NodeAddress):
        return NodeSession(address, config, jitter=new_jitter(), may_be_away=may_be_away)
    return EmbeddedSession(address, config)
