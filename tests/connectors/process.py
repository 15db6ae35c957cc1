"""An engine process of its own: `python -m tests.connectors.process MODULE CLASS ENDPOINT IDENTITY SETTINGS STEPS`.

IDENTITY, SETTINGS and STEPS are JSON; a step is [verb, prompt, pages]. Prints the results as a JSON list.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.connectors.driver import ConnectorDriver, Identity

__all__ = ["start_elsewhere"]

_ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 90.0


class Elsewhere:
    """The process, and what it found."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def results(self) -> list[int]:
        """Waits for its end; fails the test when it failed."""
        try:
            printed, errors = self._process.communicate(timeout=_TIMEOUT_S)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, errors
        found: list[int] = json.loads(printed.splitlines()[-1])
        return found


def start_elsewhere(
    driver: type[ConnectorDriver], endpoint: str, identity: Identity, settings: dict[str, Any], *steps: list[Any]
) -> Elsewhere:
    """Carries out steps with the same driver in another process."""
    arguments = [json.dumps(value) for value in (vars(identity), settings, steps)]
    command = [sys.executable, "-m", __name__, driver.__module__, driver.__qualname__, endpoint, *arguments]
    return Elsewhere(subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def _main(module: str, name: str, endpoint: str, identity: str, settings: str, steps: str) -> None:
    driver = getattr(importlib.import_module(module), name)
    with driver(endpoint, Identity(**json.loads(identity)), json.loads(settings)) as connector:
        found = [getattr(connector, verb)(prompt, pages) for verb, prompt, pages in json.loads(steps)]
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
