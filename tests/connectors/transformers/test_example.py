"""The example runs as its users run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.node import Node

pytest.importorskip("torch")
pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[3] / "examples" / "transformers_prefix.py"


def run_example(*arguments):
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE), "--tokens", "200", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_with_a_store_of_its_own():
    printed = run_example()
    assert "0 of 200 tokens came from the store" in printed
    assert "192 of 200 tokens came from the store" in printed


def test_a_second_process_finds_what_the_first_left_in_a_node(tmp_path):
    with Node(tmp_path) as node:
        assert "0 of 200 tokens came from the store" in run_example("--node", node.url)
        again = run_example("--node", node.url)
    assert again.count("192 of 200 tokens came from the store") == 2
