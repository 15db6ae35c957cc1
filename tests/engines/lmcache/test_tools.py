"""LMCache's own checker and benchmark of second tiers, on both adapters."""

import json

import pytest

pytest.importorskip("lmcache")

from tests.engines.lmcache.adapters import adapter_json
from tests.engines.lmcache.server import run_tool
from tests.support.node import Node

OBJECTS = 8


@pytest.fixture
def node(tmp_path):
    with Node(tmp_path, memory="128MiB") as running:
        yield running


@pytest.fixture(params=["native_plugin", "plugin"])
def adapter(request, node):
    said = {"dtype": "float32"} if request.param == "native_plugin" else {}
    return adapter_json(request.param, endpoint=node.url, **said)


def test_the_checker_finds_nothing(adapter):
    flags = ["--mode", "test_l2_adapter", "--num-keys", str(OBJECTS), "--l2-adapter", adapter]
    checked = run_tool("lmcache.v1.basic_check", *flags)
    assert checked.returncode == 0, checked.stderr
    for line in ("correctly absent", "found", "(loaded)", "(content)"):
        assert any(line in one and f" {OBJECTS}/{OBJECTS}" in one for one in _validations(checked.stdout)), (
            checked.stdout
        )
    assert "Batch store OK" in checked.stdout


def test_the_checker_finds_what_is_wrong(node, adapter):
    """The negative control: without a node, the same lines do not say so."""
    node.kill()
    checked = run_tool("lmcache.v1.basic_check", "--mode", "test_l2_adapter", "--l2-adapter", adapter)
    assert "Batch store FAIL" in checked.stdout
    assert "(content): 0/" in checked.stdout


@pytest.mark.slow
def test_the_benchmark_verifies_every_byte(adapter, tmp_path):
    result = tmp_path / "result.json"
    size = ["--num-keys", str(OBJECTS), "--in-flight", "2", "--data-size-kb", "1024", "--rounds", "2"]
    checks = ["--lookup-max-hit-rate", "1.0", "--no-skip-verify", "--format", "json", "--output", str(result)]
    ran = run_tool("lmcache.cli.main", "bench", "l2", "--l2-adapter", adapter, *size, *checks)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"All {2 * OBJECTS} keys data verified OK" in ran.stdout
    found = [value for name, value in json.loads(result.read_text())["metrics"].items() if name.startswith("op_")]
    assert {one["operation"] for one in found} == {"Store", "Lookup", "Load"}
    assert all(one["total_success"] == one["total_keys"] == 4 * OBJECTS for one in found), found


def _validations(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "Validation" in line]
