"""Settings of a node, a client and an engine's connector: one frozen dataclass each, nothing anywhere else.

A setting comes from, later ones winning: its default, the TOML file (table `[node]`, `[client]` or `[connector]`), the
environment (`KVSTORE_NODE_...`, ...), explicit overrides (flags, parameters of an address, an engine's configuration).
Unknown names are errors. docs/SETTINGS.md is generated from this file (`make docs`).
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from kvstore.errors import ConfigError

__all__ = [
    "ClientConfig",
    "ConnectorConfig",
    "NodeConfig",
    "format_bytes",
    "parse_bytes",
    "parse_ms",
    "parse_us",
    "settings_markdown",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
_LANES: Final = ("auto", "mapped", "shm", "rdma", "rdma-over-tcp", "tcp")
_TTL_MS_MAX: Final = 100 * 365 * 86_400_000
DISK_BYTES_MIN: Final = 16 * MIB
_PAGE_BYTES: Final = 4 * KIB

_BYTE_UNITS: Final[Mapping[str, int]] = MappingProxyType(
    {"": 1, "B": 1}
    | {f"{prefix}iB": 1 << 10 * power for power, prefix in enumerate("KMGT", start=1)}
    | {f"{prefix}B": int(1000**power) for power, prefix in enumerate("KMGT", start=1)},
)
_MS_UNITS: Final[Mapping[str, int]] = MappingProxyType({"": 1, "ms": 1, "s": 1000, "min": 60_000})
_US_UNITS: Final[Mapping[str, int]] = MappingProxyType({"": 1, "us": 1, "ms": 1000, "s": 1_000_000})
_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")


def parse_bytes(value: str | int) -> int:
    """Bytes from "4GiB", "512 MiB", "4GB" (powers of 1000), "65536" or an integer. Raises `ConfigError`."""
    return _parse_quantity(value, _BYTE_UNITS, "size")


def parse_ms(value: str | int) -> int:
    """Milliseconds from "2s", "500ms", "1.5s", "1min" or an integer of milliseconds. Raises `ConfigError`."""
    return _parse_quantity(value, _MS_UNITS, "duration")


def parse_us(value: str | int) -> int:
    """Microseconds from "200us", "1ms" or an integer of microseconds. Raises `ConfigError`."""
    return _parse_quantity(value, _US_UNITS, "duration")


def format_bytes(size_bytes: int) -> str:
    """The size in the largest binary unit that it fills: "4 GiB", "1.5 MiB", "17 B"; at most two decimals."""
    size, unit = Decimal(size_bytes), "B"
    for prefix in "KMGT":
        if round(size, 2) < KIB:
            break
        size, unit = size / KIB, f"{prefix}iB"
    return f"{size:.2f}".rstrip("0").rstrip(".") + f" {unit}"


def _parse_quantity(value: object, units: Mapping[str, int], what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) and len(value) <= 64 else None
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ConfigError(f"{value!r} is not a {what}; write a number, with a unit if you like: {known}")
    scaled = Decimal(match[1]) * units[match[2]]
    if scaled != scaled.to_integral_value():
        raise ConfigError(f"{value!r} is finer than the unit of this setting")
    return int(scaled)


def _parse_int(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigError(f"{value!r} is not a whole number")


def _parse_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false", "1", "0"}:
        return value.lower() in {"true", "1"}
    raise ConfigError(f"{value!r} is neither true nor false")


def _parse_str(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{value!r} is not a string")
    return value


_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {"bytes": parse_bytes, "ms": parse_ms, "us": parse_us, "int": _parse_int, "bool": _parse_bool, "str": _parse_str}
)


def _setting(
    default: Any, kind: str, help: str, *, key: str = "", choices: tuple[str, ...] = (), least: int = 0, most: int = 0
) -> Any:
    """A dataclass field with what loading, checking and documenting it need. Numbers lie within [least, most]."""
    metadata = {"kind": kind, "help": help, "key": key, "choices": choices, "least": least, "most": most}
    return field(default=default, metadata=metadata)


class _Settings:
    """What both configurations share: loading from the three sources, and checking each value."""

    __slots__ = ()

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for key, setting in _keyed(type(self)):
            _check(key, setting, getattr(self, setting.name))

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Self:
        """The settings from `file` (TOML), `environment` (default: the process's own) and `overrides`.

        `overrides` maps keys, as in the file, to values; None means "not given". Raises `ConfigError`, naming source
        and key, for a file that cannot be read, unknown keys, malformed values and values out of range.
        """
        merged: dict[str, Any] = {}
        sources = (
            _from_file(cls.section, file),
            _from_environment(cls.section, os.environ if environment is None else environment),
            {key: (f"setting {key}", value) for key, value in (overrides or {}).items() if value is not None},
        )
        known = dict(_keyed(cls))
        for source in sources:
            for key, (origin, value) in source.items():
                if key not in known:
                    raise ConfigError(f"{origin}: there is no such setting{_nearest(key, known)}")
                merged[known[key].name] = _parse(origin, known[key], value)
        return cls(**merged)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig(_Settings):
    """Settings of a storage node. Raises `ConfigError` for values out of range or refused for safety."""

    section: ClassVar[str] = "node"

    listen: str = _setting("127.0.0.1:7400", "str", "Address of the control plane; port 0 picks a free one.")
    memory_bytes: int = _setting(
        4 * GIB, "bytes", "Memory for blocks, taken at start.", key="memory", least=64 * KIB, most=(1 << 44) - 4 * KIB
    )
    max_block_bytes: int = _setting(
        64 * MIB, "bytes", "Largest block that the node accepts.", least=4 * KIB, most=64 * MIB
    )
    threads: int = _setting(0, "int", "Data threads; 0 means half of the cores, at least 1, at most 4.", most=64)
    data_port: int = _setting(0, "int", "First port of the data plane, one a thread; 0 picks free ones.", most=65_535)
    rdma: str = _setting(
        "auto",
        "str",
        "A second listener for RDMA: where there are devices, never, or its protocol over TCP (slower; for tests).",
        choices=("auto", "off", "over-tcp"),
    )
    huge_pages: bool = _setting(
        True, "bool", "Take the memory in reserved huge pages where enough are free (`vm.nr_hugepages`)."
    )
    prefault: bool = _setting(
        False, "bool", "Touch all memory at start (seconds a GiB), so that no first write pays for its pages."
    )
    spin_us: int = _setting(200, "us", "How long an idle data thread polls before it sleeps.", most=10_000)
    capability_ttl_ms: int = _setting(
        10_000, "ms", "How long a client may take from hello to its first data message.", least=100, most=3_600_000
    )
    disk: str = _setting(
        "", "str", "Directories of the NVMe tier, one a disk, joined by commas; empty means memory only."
    )
    disk_bytes: int = _setting(
        0, "bytes", "Space on all disks together, divided evenly; needed with `disk`.", key="disk_size", most=1 << 50
    )
    admission: str = _setting(
        "eager",
        "str",
        "Which blocks go to disk: all at once, those that were used again, or none.",
        choices=("eager", "after-first-reuse", "off"),
    )
    disk_io: str = _setting(
        "auto",
        "str",
        "How disks are driven: `io_uring` where the kernel allows it, or threads.",
        choices=("auto", "io_uring", "threads"),
    )
    shutdown_flush_ms: int = _setting(
        30_000, "ms", "How long a node that is told to stop may take to bring its blocks to disk.", most=3_600_000
    )
    pin_share: int = _setting(50, "int", "Percent of each tier that pinned blocks may hold.", most=100)
    metrics: str = _setting(
        "", "str", "Address of a page with all counters for Prometheus, such as 127.0.0.1:7401; empty means none."
    )
    tenants: str = _setting(
        "", "str", "TOML file that says whose blocks the node keeps, with quotas and tokens; empty means one tenant."
    )
    runtime_dir: str = _setting(
        "", "str", "Directory for the Unix sockets of the same-host lane; empty means a private temporary one."
    )
    insecure: bool = _setting(
        False, "bool", "Allow addresses other than loopback although nothing is authenticated or encrypted."
    )
    log_level: str = _setting(
        "info", "str", "Least severe message that is logged.", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        _Settings.__post_init__(self)  # super() does not survive slots=True, which makes the class anew
        for key, address in (("listen", self.listen), ("metrics", self.metrics or "localhost:0")):
            host, _ = _split_address(key, address)
            if not ipaddress.ip_address(host).is_loopback and not self.insecure:
                raise ConfigError(
                    f"{key} {address!r} can be reached from other machines, and the node neither authenticates nor"
                    " encrypts; listen on loopback, or set insecure to accept that"
                )
        if self.data_port and self.data_port + self.thread_count - 1 > 65_535:
            raise ConfigError(f"data_port {self.data_port} leaves no room for {self.thread_count} threads' ports")
        self._check_disks()

    def _check_disks(self) -> None:
        paths = _split_paths(self.disk)
        if not paths:
            if self.disk_bytes:
                raise ConfigError("disk_size is set, but disk names no directory to take it from")
            return
        if self.disk_bytes < len(paths) * DISK_BYTES_MIN:
            wanted = "is needed with disk" if not self.disk_bytes else f"{format_bytes(self.disk_bytes)} is too little"
            raise ConfigError(
                f"disk_size {wanted}: it is the space on all disks together, such as 200GiB, and at least"
                f" {format_bytes(DISK_BYTES_MIN)} for each of {len(paths)}"
            )

    @property
    def disks(self) -> list[tuple[str, int]]:
        """(directory, bytes) of each disk; bytes are whole pages, and rounding leaves up to a page a disk unused."""
        paths = _split_paths(self.disk)
        return [(path, self.disk_bytes // len(paths) // _PAGE_BYTES * _PAGE_BYTES) for path in paths]

    @property
    def listen_host(self) -> str:
        """The numeric address of `listen`."""
        return _split_address("listen", self.listen)[0]

    @property
    def listen_port(self) -> int:
        """The port of `listen`; 0 picks a free one."""
        return _split_address("listen", self.listen)[1]

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """(numeric host, port) of `metrics`, if there is to be one; port 0 picks a free one."""
        return _split_address("metrics", self.metrics) if self.metrics else None

    @property
    def thread_count(self) -> int:
        """`threads`, or what 0 means on this machine."""
        return self.threads or min(4, max(1, len(os.sched_getaffinity(0)) // 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientConfig(_Settings):
    """Settings of a client. Raises `ConfigError` for values out of range."""

    section: ClassVar[str] = "client"

    timeout_ms: int = _setting(
        2_000, "ms", "Deadline of one operation; whatever is not done by then is a miss.", least=1, most=600_000
    )
    connect_timeout_ms: int = _setting(
        2_000, "ms", "How long `connect` waits for the node before it raises.", least=1, most=600_000
    )
    lane: str = _setting(
        "auto",
        "str",
        "How bytes travel: same-host mapping, UCX shared memory, RDMA or TCP, or the best that works.",
        choices=_LANES,
    )
    token_file: str = _setting("", "str", "File with the token of a tenant, for nodes that have several.")
    spin_us: int = _setting(200, "us", "How long a waiting operation polls before it sleeps.", most=10_000)
    reconnect_backoff_ms_max: int = _setting(
        1_000, "ms", "Longest pause between two attempts to reach a lost node.", least=1, most=600_000
    )
    max_block_bytes: int = _setting(
        64 * MIB, "bytes", "Largest block that the client sends or asks for.", least=4 * KIB, most=64 * MIB
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorConfig(_Settings):
    """Settings of an engine's connector. Raises `ConfigError` for values out of range."""

    section: ClassVar[str] = "connector"

    endpoint: str = _setting("", "str", "The node, such as `kv://127.0.0.1:7400`; every engine needs one.")
    lane: str = _setting("auto", "str", "As for clients.", choices=_LANES)
    model: str = _setting(
        "", "str", "Name of the model in keys, where engines have it under different paths; empty means the engine's."
    )
    revision: str = _setting(
        "", "str", "Revision or digest of the weights in keys; empty means the engine's, or none where it has none."
    )
    tenant_secret_file: str = _setting(
        "", "str", "File whose bytes key all names: without them nobody finds the blocks. Empty means one tenant."
    )
    ttl_ms: int = _setting(
        0,
        "ms",
        "How long saved blocks are worth keeping; 0 means until evicted.",
        key="ttl",
        most=100 * 365 * 86_400_000,
    )
    lookup_timeout_ms: int = _setting(
        500, "ms", "Longest wait for an answer to which blocks are there; then none are.", least=1, most=600_000
    )
    load_timeout_ms: int = _setting(
        5_000, "ms", "Longest wait for blocks; what has not come by then is computed.", least=1, most=600_000
    )
    save_timeout_ms: int = _setting(
        10_000, "ms", "How long one save may take before it is given up.", least=1, most=600_000
    )
    save_bytes: int = _setting(
        256 * MIB, "bytes", "Blocks on their way to the node; saves beyond that are dropped.", least=MIB, most=1 << 44
    )
    cost_gate: bool = _setting(
        True, "bool", "Leave hits alone that would take longer to load than to compute, as far as that is known."
    )


def settings_markdown() -> str:
    """The reference page docs/SETTINGS.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated from kvstore/config.py by `make docs`; edit that file. -->",
        "",
        "Default < file < environment < flag or argument. Unknown names are errors.",
        "Sizes: `4GiB`, `512MiB`, `4GB` (powers of 1000) or bytes.",
        "Durations: `2s`, `500ms`, `200us` or a number in the unit that the name ends with.",
        "",
        "The file is TOML with the tables `[node]`, `[client]` and `[connector]`; engines give the last in their own",
        "configuration. On Kubernetes, a Service named `kvstore-node`, `-client` or `-connector` makes the platform",
        "inject variables with the prefixes below: name it otherwise, or set `enableServiceLinks: false`.",
    ]
    for title, config in (("Node", NodeConfig), ("Client", ClientConfig), ("Connector", ConnectorConfig)):
        lines += [
            "",
            f"## {title}",
            "",
            "| Setting | Environment | Default | Values | Meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(config.section, key, setting) for key, setting in _keyed(config)]
    return "\n".join(lines) + "\n"


def _row(section: str, key: str, setting: Field[Any]) -> str:
    cells = (
        f"`{key}`",
        f"`{_prefix(section)}{key.upper()}`",
        f"`{_show(setting, setting.default)}`",
        _values(setting),
        setting.metadata["help"],
    )
    return f"| {' | '.join(cells)} |"


def _values(setting: Field[Any]) -> str:
    metadata = setting.metadata
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    if metadata["kind"] in {"str", "bool"}:
        return "text" if metadata["kind"] == "str" else "`true`, `false`"
    return f"{_show(setting, metadata['least'])} to {_show(setting, metadata['most'])}"


def _show(setting: Field[Any], value: Any) -> str:
    match setting.metadata["kind"]:
        case "bytes":
            return format_bytes(value)
        case "ms" | "us" as unit:
            return f"{value} {unit}"
        case "bool":
            return str(value).lower()
        case "str":
            return value or '""'
        case _:
            return str(value)


def _keyed(config: type[_Settings]) -> Iterator[tuple[str, Field[Any]]]:
    """(key in file, environment and flags, field) of each setting."""
    for setting in fields(config):  # type: ignore[arg-type]  # both subclasses are dataclasses
        assert setting.default is not MISSING, setting.name
        yield setting.metadata["key"] or setting.name, setting


def _prefix(section: str) -> str:
    return f"KVSTORE_{section.upper()}_"


def _from_file(section: str, file: str | os.PathLike[str] | None) -> dict[str, tuple[str, Any]]:
    if file is None:
        return {}
    try:
        tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"settings file {os.fspath(file)!r} cannot be read: {error}") from error
    sections = (NodeConfig.section, ClientConfig.section, ConnectorConfig.section)
    for name, table in tables.items():
        if name not in sections or not isinstance(table, dict):
            raise ConfigError(f"{os.fspath(file)}: {name!r} is not one of the tables {', '.join(sections)}")
    return {key: (f"{os.fspath(file)}, [{section}] {key}", value) for key, value in tables.get(section, {}).items()}


def _from_environment(section: str, environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    prefix = _prefix(section)
    return {
        name.removeprefix(prefix).lower(): (f"environment variable {name}", value)
        for name, value in environment.items()
        if name.startswith(prefix)
    }


def _nearest(key: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; the settings are {', '.join(known)}"


def _parse(origin: str, setting: Field[Any], value: object) -> Any:
    try:
        return _PARSERS[setting.metadata["kind"]](value)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _check(key: str, setting: Field[Any], value: object) -> None:
    kind, choices = setting.metadata["kind"], setting.metadata["choices"]
    wanted = {"str": str, "bool": bool}.get(kind, int)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{key} must be of type {wanted.__name__}, not {value!r}")
    if choices and value not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(choices)}, not {value!r}")
    least, most = setting.metadata["least"], setting.metadata["most"]
    if isinstance(value, int) and wanted is int and not least <= value <= most:
        raise ConfigError(f"{key} must be from {_show(setting, least)} to {_show(setting, most)}, not {value}")


def _split_paths(disk: str) -> list[str]:
    """The directories in `disk`. Raises `ConfigError` for an empty one, and for one that is named twice."""
    if not disk:
        return []
    paths = [path.strip() for path in disk.split(",")]
    if not all(paths):
        raise ConfigError(f"disk {disk!r} has an empty directory between its commas")
    places = [os.path.abspath(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"disk {disk!r} names {path!r} more than once")
    return paths


def _split_address(key: str, address: str) -> tuple[str, int]:
    """(numeric host, port) of "127.0.0.1:7400", "localhost:0" or "[::1]:7400"; no name is ever looked up."""
    host, colon, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    try:
        numeric = ipaddress.ip_address(bare).version == (6 if bracketed else 4)
    except ValueError:
        numeric = False
    if not colon or not numeric or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ConfigError(
            f"{key} {address!r} must be a numeric address (or localhost) and a port,"
            " such as 127.0.0.1:7400 or [::1]:7400"
        )
    return bare, int(port)
