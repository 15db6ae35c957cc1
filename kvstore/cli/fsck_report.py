"""What `kvstore fsck` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kvstore.config import format_bytes

__all__ = ["DiskReport", "Finding"]

_KEY_BYTES = 32
_KEYS_SHOWN = 3
_DIGITS_SHOWN = 16
_RATE_S_MIN = 0.5
_MEANINGS = {
    "corrupt": "the bytes do not have their checksum",
    "unreadable": "the device cannot read the bytes",
    "lost": "the bytes were in a part of an extent file that is gone",
    "overlaps": "the bytes belong to another block now",
    "outside": "there is no such place on this disk",
    "malformed": "the row cannot be decoded",
    "orphaned": "a pin of a block that is not here: left by a crash, no damage",
}


class Finding(NamedTuple):
    """A row that must go, and why (`kvstore._native.DiskCheck.findings`)."""

    why: str
    catalog_key: bytes
    size_bytes: int

    @property
    def name(self) -> str:
        """The block's key in hexadecimal, and the owner where it is a pin."""
        key, owner = self.catalog_key[1 : 1 + _KEY_BYTES], self.catalog_key[1 + _KEY_BYTES :]
        return key.hex() + (f" of {owner.decode('utf-8', 'replace')}" if owner else "")


@dataclass(frozen=True)
class DiskReport:
    """One disk."""

    path: str
    disk_id: str
    size_bytes: int
    catalog_damage: list[str]
    extent_damage: list[str]
    sound_blocks: int
    sound_bytes: int
    sound_pins: int
    findings: list[Finding]
    repaired: bool
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong but what a crash may leave behind."""
        damage = [finding for finding in self.findings if finding.why != "orphaned"]
        return not (self.catalog_damage or self.extent_damage or damage)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "disk_id": self.disk_id,
            "bytes": self.size_bytes,
            "clean": self.is_clean,
            "catalog_damage": self.catalog_damage,
            "extent_damage": self.extent_damage,
            "sound": {"blocks": self.sound_blocks, "bytes": self.sound_bytes, "pins": self.sound_pins},
            "findings": [
                {"why": finding.why, "key": finding.name, "bytes": finding.size_bytes} for finding in self.findings
            ],
            "rows_removed": len(self.findings) if self.repaired else 0,
            "seconds": round(self.seconds, 3),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts():
            yield Padding(part, (0, 0, 0, 2), expand=False)

    def _parts(self) -> Iterator[RenderableType]:
        rate = f", {format_bytes(round(self.sound_bytes / self.seconds))}/s" if self.seconds >= _RATE_S_MIN else ""
        yield Text()
        yield Text.assemble("disk ", (self.path, "bold"))
        size = format_bytes(self.size_bytes) if self.size_bytes else "never used"
        yield Text(f"id {self.disk_id}, {size}; checked in {self.seconds:.1f} s{rate}", "dim")
        yield Text()
        for name, lines in (("extents", self.extent_damage), ("catalog", self.catalog_damage)):
            for line in lines:
                yield Text.assemble((f"{name}: ", "bold yellow"), line)
        if self.extent_damage or self.catalog_damage:
            yield Text()
        yield self._table()
        yield Text()
        yield from self._verdict()

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
        table.add_column(no_wrap=True)
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)
        table.add_column()
        table.add_row("sound", f"{self.sound_blocks:,}", format_bytes(self.sound_bytes), "")
        if self.sound_pins:
            table.add_row("sound pins", f"{self.sound_pins:,}", "", "")
        for why, meaning in _MEANINGS.items():
            found = [finding for finding in self.findings if finding.why == why]
            if found:
                total = format_bytes(sum(finding.size_bytes for finding in found))
                table.add_row(Text(why, "bold yellow"), f"{len(found):,}", total, Text(meaning))
                table.add_row("", "", "", Text(_some_names(found), "dim"))
        return table

    def _verdict(self) -> Iterator[Text]:
        if self.is_clean:
            yield Text("clean", "bold green")
            return
        if self.findings and self.repaired:
            yield Text.assemble((f"{len(self.findings):,} rows were removed", "bold"), "; their blocks are misses now")
        elif self.findings:
            count = f"{len(self.findings):,} rows are bad"
            yield Text.assemble((count, "bold"), "; kvstore fsck --repair removes them")
        if self.extent_damage and self.repaired:
            yield Text("the extent files are whole again")
        if (self.extent_damage or self.catalog_damage) and not self.repaired:
            yield Text("extent files and catalog are mended by --repair, or by the next node that starts on this disk")


def _some_names(found: list[Finding]) -> str:
    names = [finding.name for finding in found[:_KEYS_SHOWN]]
    shown = [f"{name[:_DIGITS_SHOWN]}\N{HORIZONTAL ELLIPSIS}{name[2 * _KEY_BYTES :]}" for name in names]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
