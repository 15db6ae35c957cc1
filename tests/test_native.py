"""The native unit tests: builds them from the CMake preset and runs each suite in a process of its own."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BINARY = ROOT / "build/native/native/native_tests"
BUILD_TIMEOUT_S = 1200
SUITE_TIMEOUT_S = 120
TEST_CASE = re.compile(r"^TEST\((\w+), *(\w+)\)", re.MULTILINE)


def cases():
    """The names of all test cases, read from the sources so that collecting tests builds nothing."""
    sources = sorted((ROOT / "native/tests").glob("*.cpp"))
    return [".".join(match) for source in sources for match in TEST_CASE.findall(source.read_text())]


def run(*command, timeout_s):
    # CMake and Ninja come with the `test` extra and may be in this environment only.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert process.returncode == 0, f"{' '.join(map(str, command))} ended with {process.returncode}:\n{process.stdout}"
    return process.stdout


@pytest.fixture(scope="module")
def binary():
    run("cmake", "--preset", "native", f"-DPython_EXECUTABLE={sys.executable}", timeout_s=BUILD_TIMEOUT_S)
    run("cmake", "--build", "--preset", "native", f"-j{os.cpu_count()}", timeout_s=BUILD_TIMEOUT_S)
    return BINARY


@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)  # whichever test comes first waits for the build
def test_every_native_test_is_known_by_name(binary):
    assert sorted(run(binary, "--list", timeout_s=SUITE_TIMEOUT_S).split()) == sorted(cases())


@pytest.mark.timeout(2 * BUILD_TIMEOUT_S)
@pytest.mark.parametrize("suite", sorted({case.partition(".")[0] for case in cases()}))
def test_native_suite(binary, suite):
    passed = re.findall(r"^ok +(\S+)$", run(binary, f"{suite}.", timeout_s=SUITE_TIMEOUT_S), re.MULTILINE)
    assert {case for case in cases() if case.startswith(f"{suite}.")} <= set(passed)
