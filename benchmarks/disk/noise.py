"""Who else used the machine while we measured."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvstore.bench.machine import CpuMeter

__all__ = ["Noise", "NoiseMeter"]

_SECTOR_BYTES: Final = 512


@dataclass(frozen=True)
class Noise:
    """Cores that others used, and bytes a second that others moved to or from the device, on average over a round.

    The latter includes what the file system itself writes, and is None where the kernel does not say.
    """

    cores: float
    disk_bytes_a_second: float | None


class NoiseMeter:
    """Of the machine less this process and the nodes, since the last look."""

    def __init__(self, node_pids: Sequence[int], directory: Path) -> None:
        # Each meter leaves out this process and one node: what is left out too often is added again.
        self._cpu = CpuMeter(node_pids[0])
        self._other_pids = node_pids[1:]
        self._pids = ["self", *map(str, node_pids)]
        self._device = os.stat(directory).st_dev
        self._restart()

    def look(self) -> Noise:
        """Since the last call, or since it was made."""
        seconds = time.monotonic() - self._start_s
        cores = max(0.0, self._cpu.others_cores() - (self._others_cpu_s() - self._cpu_s) / seconds)
        now, before = self._disk_bytes(), self._bytes
        noise = Noise(cores, None if now is None or before is None else max(0, now - before) / seconds)
        self._restart()
        return noise

    def _restart(self) -> None:
        self._start_s = time.monotonic()
        self._cpu_s = self._others_cpu_s()
        self._bytes = self._disk_bytes()
        self._cpu.restart()

    def _others_cpu_s(self) -> float:
        """CPU time of the nodes that `CpuMeter` takes for somebody else."""
        total = 0
        for pid in self._other_pids:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def _disk_bytes(self) -> int | None:
        """What the device has moved, less our part."""
        for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(self._device), os.minor(self._device)):
                return (int(fields[5]) + int(fields[9])) * _SECTOR_BYTES - sum(map(_moved_bytes, self._pids))
        return None


def _moved_bytes(pid: str) -> int:
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(": ") for line in lines)
    return int(fields["read_bytes"]) + int(fields["write_bytes"])
