"""The `kvstore` command: what it prints, and how it fails."""

import io
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import kvstore
from kvstore.cli.stats_view import StatsPage
from kvstore.transport import native, ucx_library
from kvstore.transport.control import NodeStats
from tests.node_process import COMMAND, NodeProcess, some_blocks, some_keys

COMMANDS = ("serve", "stats", "evict", "flush", "fsck", "version", "demo", "bench")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env={"COLUMNS": "100", **environment}
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with NodeProcess(tmp_path_factory.mktemp("node")) as running, kvstore.connect(running.url) as store:
        assert store.put(some_keys(4), some_blocks(4)).all_ok
        assert store.get(some_keys(5), np.zeros((5, 4096), np.uint8)).ok.sum() == 4
        yield running


def test_is_the_entry_point_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["kvstore"] == "kvstore.cli.main:main"


def test_help_names_every_command():
    answer = run("--help")
    assert answer.returncode == 0
    assert all(f" {name} " in answer.stdout for name in COMMANDS)


def test_help_imports_nothing_heavy():
    script = "from kvstore.cli.main import main\nimport sys\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, timeout=60)
    loaded = set(answer.stderr.split())
    assert "kvstore.cli.main" in loaded
    assert not loaded & {"grpc", "google.protobuf", "torch", "transformers", "matplotlib", "kvstore._native"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    answer = run(name, "--help")
    if name in ("demo", "bench") and "pip install" in answer.stderr:
        assert answer.returncode == 1
        assert answer.stderr.count("\n") == 1
    else:
        assert answer.returncode == 0, answer.stderr
        assert "--help" in answer.stdout


def test_version():
    answer = run("version")
    assert answer.returncode == 0, answer.stderr
    library = ucx_library.load()
    assert f"kvstore {kvstore.__version__}, wire version {native().WIRE_VERSION}" in answer.stdout
    assert f"ucx     {'.'.join(map(str, library.version))} ({library.origin}: {library.path})" in answer.stdout
    assert native().crc32c_implementation() in answer.stdout


def test_stats_as_a_table(node):
    answer = run("stats", node.url)
    assert answer.returncode == 0, answer.stderr
    assert node.address in answer.stdout
    words = {" ".join(line.split()) for line in answer.stdout.splitlines()}
    assert any("hit ratio 80.0 %" in line for line in words)
    assert any("held 4" in line for line in words)
    assert any("of 64 MiB" in line for line in words)


def test_stats_as_json(node):
    answer = run("stats", node.url, "--json")
    assert answer.returncode == 0, answer.stderr
    stats = json.loads(answer.stdout)
    assert stats["address"] == node.address
    assert stats["node_version"] == kvstore.__version__
    assert stats["counters"]["blocks"] == 4
    assert stats["counters"]["hits"] == 4


def test_every_counter_of_a_node_has_its_place(node):
    counters = json.loads(run("stats", node.url, "--json").stdout)["counters"]
    assert "Other" not in run("stats", node.url).stdout
    page = _text(StatsPage("x:1", NodeStats("id", "1", 90_061_000, {**counters, "brand_new": 77})), 200)
    assert "brand_new" in page
    assert "up 1 d 1 h" in page


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_table_fits_and_keeps_its_numbers(columns):
    counters = {"capacity_bytes": 4 << 30, "used_bytes": 1 << 30, "hits": 123_456_789, "puts": 987_654_321}
    page = _text(StatsPage("127.0.0.1:7400", NodeStats("0123456789abcdef", "0.1.0", 5000, counters)), columns)
    assert "123,456,789" in page
    assert "987,654,321" in page
    assert max(len(line.rstrip()) for line in page.splitlines()) <= columns


def test_evict(node):
    answer = run("evict", node.url, "4KiB")
    assert (answer.returncode, answer.stdout) == (0, "freed 4 KiB\n"), answer.stderr
    answer = run("evict", node.url, "1GiB")
    assert (answer.returncode, answer.stdout) == (0, "freed 12 KiB of 1 GiB: there is no more to evict\n")


def test_flush_of_a_node_without_a_disk(node):
    answer = run("flush", node.url, "--timeout-ms", "5000")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(f"kvstore flush: {node.address} has blocks that are not durable")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("stats", "kv://127.0.0.1:1"), "kvstore stats: no kvstore node can be reached at 127.0.0.1:1"),
        (("stats", "127.0.0.1:1"), "kvstore stats: '127.0.0.1:1' is not an address"),
        (("stats", "embedded://?memory=1GiB"), "kvstore stats: 'embedded://?memory=1GiB' is a store inside another"),
        (("evict", "kv://127.0.0.1:1", "1GiB"), "kvstore evict: no kvstore node"),
        (("evict", "kv://127.0.0.1:1", "all"), "kvstore evict: 'all' is not a size"),
        (("flush", "kv://127.0.0.1:1"), "kvstore flush: no kvstore node can be reached at 127.0.0.1:1"),
        (("serve", "--disk", "/a"), "kvstore serve: disk_size is needed with disk"),
        (("serve", "--disk", "/a", "--disk-size", "1KiB"), "kvstore serve: disk_size 1 KiB is too little"),
        (("serve", "--admission", "never"), "kvstore serve: admission must be one of"),
        (("serve", "--threads", "-1"), "kvstore serve: threads must be"),
    ],
)
def test_operating_errors_are_one_line_and_status_1(arguments, complaint):
    answer = run(*arguments)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith(complaint), answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("stats",), ("fly",), ("serve", "--wings", "2"), ("evict", "kv://127.0.0.1:1")])
def test_wrong_usage_is_status_2(arguments):
    answer = run(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr


def test_a_ucx_that_is_not_there_is_one_line():
    answer = run("version", KVSTORE_UCX_LIBRARY="/does/not/exist")
    assert answer.returncode == 1
    assert answer.stderr.startswith("kvstore version: KVSTORE_UCX_LIBRARY is '/does/not/exist'")
    assert answer.stderr.count("\n") == 1


def _text(page: StatsPage, columns: int) -> str:
    paper = io.StringIO()
    Console(width=columns, file=paper).print(page)
    return paper.getvalue()
