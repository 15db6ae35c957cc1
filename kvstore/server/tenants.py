"""The tenants of a node: whose blocks it keeps, within which quotas, and by which token each is known.

Each tenant has a data plane of its own (memory, disks, index, threads), so that nothing one tenant does reaches the
blocks, the space or the keys of another. A node without a tenants file has one tenant, who needs no token.

    [tenants.search]
    token_file = "/run/secrets/search"   # the secret that this tenant's clients send
    memory = "2GiB"                      # quotas: memory, and disk where the node has one
    disk_size = "100GiB"

On each disk of the node a tenant has a directory of its own, tenant-NAME.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from kvstore.config import NodeConfig, format_bytes, parse_bytes
from kvstore.disks import DiskDirectory
from kvstore.errors import ConfigError
from kvstore.transport.tenant_token import read_token

__all__ = ["Tenant", "find_tenant", "load_tenants"]

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KEYS: Final = {"token_file", "memory", "disk_size", "pin_share"}
_TENANTS_MAX: Final = 64


@dataclasses.dataclass(frozen=True)
class Tenant:
    """One tenant; `config` are the settings of its data plane. The only one of a node has no name and no token."""

    name: str
    config: NodeConfig
    token_digest: bytes = dataclasses.field(default=b"", repr=False)


def load_tenants(config: NodeConfig) -> list[Tenant]:
    """The tenants in the file that `config.tenants` names. Raises `ConfigError`, naming file and tenant."""
    if not config.tenants:
        return [Tenant("", config)]
    try:
        tables = tomllib.loads(Path(config.tenants).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"tenants file {config.tenants!r} cannot be read: {error}") from error
    tenants = tables.pop("tenants", None)
    if tables or not isinstance(tenants, dict) or not 0 < len(tenants) <= _TENANTS_MAX:
        raise ConfigError(
            f"{config.tenants}: a tenants file has 1 to {_TENANTS_MAX} tables [tenants.NAME] and nothing else"
        )
    _check_disks(config)
    loaded = [_tenant(config, number, name, table) for number, (name, table) in enumerate(tenants.items())]
    _check_together(config, loaded)
    return loaded


def find_tenant(tenants: Sequence[Tenant], token: str) -> Tenant | None:
    """Whose token this is; all are compared, so that the time it takes says nothing."""
    digest = _digest(token)
    found = None
    for tenant in tenants:
        if not tenant.name or hmac.compare_digest(tenant.token_digest, digest):
            found = tenant
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _tenant(config: NodeConfig, number: int, name: str, table: Any) -> Tenant:
    origin = f"{config.tenants}, [tenants.{name}]"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{origin}: names are 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
    if not isinstance(table, dict) or not table.keys() <= _KEYS:
        raise ConfigError(f"{origin}: a tenant has {', '.join(sorted(_KEYS))} and nothing else")
    for key in ("token_file", "memory", *(("disk_size",) if config.disks else ())):
        if key not in table:
            raise ConfigError(f"{origin}: {key} is missing")
    if "disk_size" in table and not config.disks:
        raise ConfigError(f"{origin}: disk_size is set, but the node has no disk")
    disks = ",".join(f"{path}/tenant-{name}" for path, _ in config.disks)
    try:
        own = dataclasses.replace(
            config,
            memory_bytes=parse_bytes(table["memory"]),
            disk=disks,
            disk_bytes=parse_bytes(table.get("disk_size", 0)),
            pin_share=table.get("pin_share", config.pin_share),
            data_port=config.data_port and config.data_port + number * config.thread_count,
            tenants="",
        )
        token = read_token(str(table["token_file"]))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return Tenant(name, own, _digest(token))


def _check_disks(config: NodeConfig) -> None:
    for path, _ in config.disks:
        if DiskDirectory.is_at(path):
            raise ConfigError(
                f"{path} holds the blocks of a node without tenants; name another directory, or move it to"
                " tenant-NAME in a new one to give them to a tenant"
            )
        if not Path(path).is_dir():
            raise ConfigError(f"{path} is no directory: where a node has tenants its disks are directories that exist")


def _check_together(config: NodeConfig, tenants: Sequence[Tenant]) -> None:
    if len({tenant.token_digest for tenant in tenants}) < len(tenants):
        raise ConfigError(f"{config.tenants}: two tenants have the same token; each needs its own")
    for key, total, shares in (
        ("memory", config.memory_bytes, [tenant.config.memory_bytes for tenant in tenants]),
        ("disk_size", config.disk_bytes, [tenant.config.disk_bytes for tenant in tenants]),
    ):
        if sum(shares) > total:
            raise ConfigError(
                f"{config.tenants}: the tenants' {key} add up to {format_bytes(sum(shares))}, and the node has"
                f" {format_bytes(total)}; lower a quota or raise the node's {key}"
            )
