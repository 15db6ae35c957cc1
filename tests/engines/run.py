"""Tests with real engines, each with the Python of its environment: `python -m tests.engines.run [--fast] [NAME...]`.

NAME is a folder beside this file. `--fast` is what every commit can wait for: one engine, and no slow test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.engines.environments import make, python_of

__all__ = ["SUITES"]

_HERE = Path(__file__).parent
# Folder: the environment that runs its tests, and others that they start processes in.
SUITES: dict[str, tuple[str, ...]] = {
    "vllm": ("vllm-0.32", "vllm-0.33"),
    "sglang": ("sglang",),
    "lmcache": ("lmcache",),
}
_FAST = ("vllm",)


def _run(folder: str, *, fast: bool) -> bool:
    environments = SUITES[folder]
    for name in environments[:1] if fast else environments:
        make(name)
    which = "not slow" if fast else "slow or not slow"
    command = [str(python_of(environments[0])), "-m", "pytest", str(_HERE / folder), "-m", which, "--durations=5"]
    print(f"\n==== {folder}, in {environments[0]}", flush=True)
    return subprocess.run(command, cwd=_HERE.parents[1], check=False).returncode == 0


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("names", nargs="*", choices=[[], *SUITES], metavar="NAME")
    arguments = parser.parse_args()
    wanted = arguments.names or (_FAST if arguments.fast else SUITES)
    failed = [folder for folder in wanted if not _run(folder, fast=arguments.fast)]
    print(f"\n==== engines: {', '.join(failed)} failed" if failed else f"\n==== engines: {', '.join(wanted)} passed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(_main())
