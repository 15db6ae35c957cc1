"""The addresses that `connect` understands.

- `kv://host:port`: a node's control plane; the host is a DNS name, an IPv4 address or an IPv6 address in brackets;
- `embedded://?memory=1GiB[&disk=PATH[,PATH]&disk_size=8GiB][&max_block=8MiB][&threads=1]`: a node inside this process.
  Values are percent-decoded. Commas part the directories of several disks, so none may have one in its name.
"""

from __future__ import annotations

import urllib.parse

from kvstore.config import NodeConfig
from kvstore.errors import ConfigError, InvalidArgumentError, UnknownSchemeError
from kvstore.transport.address import NodeAddress

__all__ = ["parse_node_url", "parse_url"]

_EMBEDDED_SETTINGS = {
    "memory": "memory",
    "disk": "disk",
    "disk_size": "disk_size",
    "max_block": "max_block_bytes",
    "threads": "threads",
}


def parse_url(url: str) -> NodeAddress | NodeConfig:
    """The address of a node, or the settings of an embedded one.

    Raises `UnknownSchemeError`, or `InvalidArgumentError` for anything else that is wrong.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InvalidArgumentError(f"{url!r} is not an address; write kv://host:port or embedded://?memory=1GiB")
    if scheme == "kv":
        return NodeAddress.parse(rest)
    if scheme == "embedded":
        return _parse_embedded(url, rest)
    raise UnknownSchemeError(f"unknown scheme {scheme!r} in {url!r}; known are kv and embedded")


def parse_node_url(url: str) -> NodeAddress:
    """As `parse_url`, where only a node of its own will do."""
    address = parse_url(url)
    if not isinstance(address, NodeAddress):
        raise InvalidArgumentError(f"{url!r} is a store inside another process; write kv://host:port")
    return address


def _parse_embedded(url: str, rest: str) -> NodeConfig:
    place, _, query = rest.partition("?")
    if place:
        raise InvalidArgumentError(f"{url!r} names a place ({place!r}), but an embedded store is in this process")
    try:
        # A plus sign stands for itself: forms on the web mean a space by it, but directories have it in their names.
        query = query.replace("+", "%2B")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InvalidArgumentError(f"the settings in {url!r} are not name=value pairs joined by &") from error
    settings = dict(pairs)
    if len(settings) < len(pairs) or not settings.keys() <= _EMBEDDED_SETTINGS.keys():
        known = ", ".join(_EMBEDDED_SETTINGS)
        raise InvalidArgumentError(f"unknown or repeated setting in {url!r}; known are {known}, each once")
    if "memory" not in settings:
        raise InvalidArgumentError(f"{url!r} does not say how much memory to take; add ?memory=1GiB")
    overrides: dict[str, object] = {"threads": 1}
    overrides.update((_EMBEDDED_SETTINGS[name], value) for name, value in settings.items())
    try:
        return NodeConfig.load(environment={}, overrides=overrides)
    except ConfigError as error:
        raise InvalidArgumentError(f"{url!r}: {error}") from error
