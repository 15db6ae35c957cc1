"""How a node's counters look on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvstore.config import format_bytes
from kvstore.transport.control import NodeStats

__all__ = ["StatsPage"]

_BAR_COLUMNS = 33
_LABEL_COLUMNS = 20
_VALUE_COLUMNS = 11
_GAP_COLUMNS = 4
_GROUP_COLUMNS = _LABEL_COLUMNS + 1 + _VALUE_COLUMNS + _GAP_COLUMNS
_ARRANGEMENTS = (
    (("Blocks", "Removed", "Disk"), ("Reads", "Sessions", "Removed from disk"), ("Writes", "Disk trouble", "Other")),
    (("Blocks", "Removed", "Disk", "Disk trouble"), ("Reads", "Writes", "Removed from disk", "Sessions", "Other")),
    (("Blocks", "Reads", "Writes", "Removed", "Disk", "Removed from disk", "Disk trouble", "Sessions", "Other"),),
)


def _count(value: int) -> str:
    return f"{value:,}"


@dataclass(frozen=True)
class _Line:
    """One counter: its name on the node, how people call it, how its value is written.

    A line of `trouble` is shown in colour where it is not zero.
    """

    counter: str
    label: str
    write: Callable[[int], str] = _count
    trouble: bool = False


_GROUPS: Mapping[str, tuple[_Line, ...]] = {
    "Blocks": (
        _Line("blocks", "held"),
        _Line("leases", "leased, blocks"),
        _Line("leased_bytes", "leased, bytes", format_bytes),
        _Line("reserved_bytes", "being written", format_bytes),
        _Line("pinned_blocks", "pinned, blocks"),
        _Line("pinned_bytes", "pinned, bytes", format_bytes),
        _Line("pinned_bytes_max", "pins may hold", format_bytes),
        _Line("index_bytes", "index", format_bytes),
        _Line("huge_pages", "in huge pages", lambda value: "yes" if value else "no"),
    ),
    "Reads": (
        _Line("hits", "hits"),
        _Line("misses", "misses"),
        _Line("nvme_hits", "of them, from disk"),
        _Line("bytes_sent", "sent", format_bytes),
        _Line("gets_waiting", "waiting for a writer"),
    ),
    "Writes": (
        _Line("puts", "stored"),
        _Line("put_exists", "already there"),
        _Line("bytes_received", "received", format_bytes),
        _Line("put_conflicts", "conflicts", trouble=True),
        _Line("put_busy", "refused, no space", trouble=True),
        _Line("put_too_large", "refused, too large", trouble=True),
        _Line("put_aborted", "abandoned", trouble=True),
        _Line("puts_expired", "past their deadline", trouble=True),
    ),
    "Removed": (
        _Line("evicted_blocks", "evicted, blocks"),
        _Line("evicted_bytes", "evicted, bytes", format_bytes),
        _Line("expired_blocks", "expired"),
        _Line("deleted_blocks", "deleted"),
        _Line("quarantined_blocks", "quarantined", trouble=True),
    ),
    "Disk": (
        _Line("nvme_disks", "disks"),
        _Line("nvme_blocks", "held"),
        _Line("nvme_index_bytes", "index", format_bytes),
        _Line("write_queue_blocks", "to be written"),
        _Line("write_queue_bytes", "to be written", format_bytes),
        _Line("write_queue_lag_ms", "oldest waits", lambda value: f"{value:,} ms"),
        _Line("nvme_written_blocks", "written, blocks"),
        _Line("nvme_written_bytes", "written, bytes", format_bytes),
        _Line("device_bytes_written", "on the device", format_bytes),
        _Line("nvme_commits", "commits"),
        _Line("nvme_read_blocks", "read, blocks"),
        _Line("nvme_read_bytes", "read, bytes", format_bytes),
        _Line("nvme_reads_joined", "reads shared"),
        _Line("nvme_misses", "misses"),
    ),
    "Removed from disk": (
        _Line("nvme_evicted_blocks", "evicted, blocks"),
        _Line("nvme_evicted_bytes", "evicted, bytes", format_bytes),
        _Line("nvme_expired_blocks", "expired"),
        _Line("nvme_deleted_blocks", "deleted"),
        _Line("nvme_quarantined_blocks", "quarantined", trouble=True),
        _Line("nvme_quarantined_bytes", "quarantined", format_bytes, trouble=True),
    ),
    "Disk trouble": (
        _Line("nvme_disks_in_trouble", "disks failing now", trouble=True),
        _Line("nvme_troubles", "failures", trouble=True),
        _Line("nvme_write_errors", "writes failed", trouble=True),
        _Line("nvme_read_errors", "reads failed", trouble=True),
        _Line("nvme_sync_errors", "syncs failed", trouble=True),
        _Line("nvme_commit_errors", "commits failed", trouble=True),
        _Line("nvme_wrong_checksums", "wrong checksums", trouble=True),
        _Line("nvme_reads_busy", "reads without room", trouble=True),
    ),
    "Sessions": (
        _Line("sessions_open", "open"),
        _Line("sessions_opened", "opened"),
        _Line("requests", "requests"),
        _Line("sessions_lost", "lost", trouble=True),
        _Line("sessions_refused", "refused", trouble=True),
        _Line("protocol_errors", "dropped for garbage", trouble=True),
        _Line("checksum_errors", "checksum errors", trouble=True),
    ),
}
_IN_HEADER = frozenset({"capacity_bytes", "used_bytes", "nvme_capacity_bytes", "nvme_used_bytes"})


@dataclass(frozen=True)
class StatsPage:
    """The whole page, in as many columns as fit. Counters unknown to this version come last, by their own names."""

    address: str
    stats: NodeStats

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        counters = self.stats.counters
        known = _IN_HEADER | {line.counter for lines in _GROUPS.values() for line in lines}
        groups = {name: list(_rows(lines, counters)) for name, lines in _GROUPS.items()}
        groups["Reads"].insert(2, _hit_ratio(counters))
        groups["Other"] = [(Text(name), Text(_count(value))) for name, value in counters.items() if name not in known]
        arrangement = next(
            (columns for columns in _ARRANGEMENTS if len(columns) * _GROUP_COLUMNS <= options.max_width),
            _ARRANGEMENTS[-1],
        )
        page = Table.grid(padding=(0, _GAP_COLUMNS, 0, 0))
        page.add_row(*(Group(*(_group(name, groups[name]) for name in names if groups[name])) for names in arrangement))
        yield Padding(Group(*_header(self.address, self.stats), page), (1, 0, 0, 2))


def _header(address: str, stats: NodeStats) -> Iterator[RenderableType]:
    yield Text.assemble("kvstore node ", (address, "bold"))
    yield Text(f"version {stats.node_version}, id {stats.node_id}, up {_duration(stats.uptime_ms)}", "dim")
    yield Text()
    yield _bar("memory", stats.counters.get("used_bytes", 0), stats.counters.get("capacity_bytes", 0))
    if "nvme_capacity_bytes" in stats.counters:
        yield _bar("disk", stats.counters.get("nvme_used_bytes", 0), stats.counters["nvme_capacity_bytes"])
    yield Text()


def _bar(tier: str, used: int, capacity: int) -> Text:
    filled = math.ceil(_BAR_COLUMNS * used / capacity) if capacity else 0
    return Text.assemble(
        f"{tier:<7}",
        ("\N{FULL BLOCK}" * filled, "green"),
        ("\N{LIGHT SHADE}" * (_BAR_COLUMNS - filled), "dim"),
        f"  {format_bytes(used)} of {format_bytes(capacity)} ({_percent(used, capacity)})",
    )


def _group(name: str, rows: list[tuple[Text, Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_LABEL_COLUMNS)
    table.add_column(width=_VALUE_COLUMNS, justify="right")
    for label, value in rows:
        table.add_row(label, value)
    return Group(
        Text(name, "bold"),
        Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (_LABEL_COLUMNS + 1 + _VALUE_COLUMNS), "dim"),
        table,
        Text(),
    )


def _rows(lines: tuple[_Line, ...], counters: Mapping[str, int]) -> Iterator[tuple[Text, Text]]:
    for line in lines:
        if line.counter in counters:
            value = counters[line.counter]
            style = "yellow" if line.trouble and value else "dim" if not value else ""
            yield Text(line.label, style), Text(line.write(value), style)


def _hit_ratio(counters: Mapping[str, int]) -> tuple[Text, Text]:
    hits, misses = counters.get("hits", 0), counters.get("misses", 0)
    served = hits + counters.get("nvme_hits", 0)
    return Text("hit ratio", "bold"), Text(_percent(served, hits + misses), "bold")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _duration(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    shown = [f"{value} {unit}" for value, unit in units if value]
    return " ".join(shown[:2]) or "0 s"
