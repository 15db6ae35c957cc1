"""The machine: what it is, and how much of it others use while we measure."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["NOISY_CORES", "CpuMeter", "describe_machine", "last_level_cache_bytes"]

NOISY_CORES: Final = 0.2
"""A round is noisy if others used more than so many cores during it."""

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CpuMeter:
    """CPU that neither this process nor `node_pid` used; what the hypervisor took away counts, too.

    `proc` is where the kernel tells: proc(5).
    """

    def __init__(self, node_pid: int, proc: Path = Path("/proc")) -> None:
        self._machine_stat = proc / "stat"
        self._node_stat = proc / str(node_pid) / "stat"
        self.restart()

    def restart(self) -> None:
        """Counts from now on."""
        self._start_s = time.monotonic()
        self._others_s = self._others_so_far_s()

    def others_cores(self) -> float:
        """How many cores others used on average since the last restart."""
        elapsed_s = time.monotonic() - self._start_s
        return max(0.0, (self._others_so_far_s() - self._others_s) / elapsed_s)

    def _others_so_far_s(self) -> float:
        return _machine_busy_s(self._machine_stat) - time.process_time() - _process_busy_s(self._node_stat)


def _machine_busy_s(stat: Path) -> float:
    """Of the fields of the first line, idle and iowait are no work, and guest time is counted in user time already."""
    with stat.open(encoding="ascii") as lines:
        user, nice, system, _, _, interrupt, soft_interrupt, stolen = map(int, lines.readline().split()[1:9])
    return (user + nice + system + interrupt + soft_interrupt + stolen) / _TICKS_A_SECOND


def _process_busy_s(stat: Path) -> float:
    """User and system time of all its threads. Its name, in parentheses, may hold anything."""
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def last_level_cache_bytes() -> int:
    """Of the first core, or 0 where the kernel does not say."""
    sizes = [path.read_text(encoding="ascii").strip() for path in _CACHES.glob("index*/size")]
    return max((int(size[:-1]) * _UNITS[size[-1]] for size in sizes if size[-1:] in _UNITS), default=0)


def describe_machine() -> Mapping[str, str]:
    """What a reader needs to know to compare figures."""
    cores = len(os.sched_getaffinity(0))
    return {
        "CPU": f"{_first_value('/proc/cpuinfo', 'model name') or platform.machine()}, {cores} cores",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Huge pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "Python": platform.python_version(),
    }


def _first_value(file: str, key: str) -> str:
    for line in Path(file).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _chosen(file: str) -> str:
    """The word in brackets, as the kernel shows a choice."""
    path = Path(file)
    return path.read_text(encoding="ascii").partition("[")[2].partition("]")[0] if path.exists() else "none"
