"""Choosing a UCX, a lane and an address."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore.errors import UnsupportedError
from kvstore.transport import native, ucx_library
from kvstore.transport.address import NodeAddress
from kvstore.transport.control import Hello
from kvstore.transport.deadline import Deadline
from kvstore.transport.lanes import candidates, host_id
from tests.node_process import wait_until

WHEEL = Path(ucx_library._wheel_path())
LOAD = "from kvstore.transport.ucx_library import load; print(load())"


def in_a_new_process(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


class TestUcxLibrary:
    def test_one_is_loaded_and_it_is_the_one_that_the_native_module_uses(self):
        library = ucx_library.load()
        assert library.version >= ucx_library.FLOOR
        assert native().ucx_version().startswith(".".join(map(str, library.version)))
        mapped = {
            line.split(maxsplit=5)[5]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if "libucp.so" in line
        }
        assert {os.path.realpath(path) for path in mapped} == {os.path.realpath(library.path)}

    @pytest.mark.parametrize("setting", [str(WHEEL), str(WHEEL.parent), str(WHEEL.parent / "libucp.so.0.0.0")])
    def test_a_setting_comes_first(self, setting):
        answer = in_a_new_process(LOAD, KVSTORE_UCX_LIBRARY=setting)
        assert "(setting: " in answer.stdout, answer.stderr

    @pytest.mark.parametrize("setting", ["/does/not/exist", "/", __file__])
    def test_a_setting_that_is_wrong_is_not_ignored(self, setting):
        answer = in_a_new_process(LOAD, KVSTORE_UCX_LIBRARY=setting)
        assert "UnsupportedError" in answer.stderr
        assert setting in answer.stderr.splitlines()[-1]

    def test_one_that_is_there_already_is_shared(self):
        answer = in_a_new_process(f"import ctypes; ctypes.CDLL({str(WHEEL)!r}); {LOAD}")
        assert "(loaded: " in answer.stdout, answer.stderr

    def test_one_that_is_there_already_and_too_old_is_refused(self, tmp_path):
        old = _build_impostor(tmp_path, "1, 13, 1")
        answer = in_a_new_process(f"import ctypes; ctypes.CDLL({str(old)!r}); {LOAD}")
        assert answer.stderr.splitlines()[-1].endswith("connect before the package that loaded it")
        assert "UCX 1.13.1 (loaded: " in answer.stderr

    @pytest.mark.parametrize(("version", "accepted"), [("1, 21, 0", True), ("1, 20, 9", False), ("2, 0, 0", True)])
    def test_the_system_s_is_asked_in_a_process_of_its_own(self, tmp_path, version, accepted):
        library = _build_impostor(tmp_path, version)
        script = "from kvstore.transport import ucx_library as u; print(u._system_path(), u._loaded_path())"
        answer = in_a_new_process(script, LD_LIBRARY_PATH=str(tmp_path))
        assert answer.stdout.split() == [str(library) if accepted else "None", "None"], answer.stderr

    def test_rdma_devices(self, tmp_path):
        assert not ucx_library.has_rdma_devices(tmp_path / "nothing")
        assert not ucx_library.has_rdma_devices(tmp_path)
        (tmp_path / "mlx5_0").mkdir()
        assert ucx_library.has_rdma_devices(tmp_path)

    def test_the_environment_stays_as_it_was(self):
        script = "import os; before = dict(os.environ); from kvstore.transport import native; native(); "
        answer = in_a_new_process(script + "print(before == dict(os.environ))")
        assert answer.stdout == "True\n", answer.stderr

    def test_none_at_all(self, monkeypatch):
        monkeypatch.setattr(ucx_library, "_loaded_path", lambda: None)
        monkeypatch.setattr(ucx_library, "_wheel_path", lambda: None)
        monkeypatch.setattr(ucx_library, "has_rdma_devices", lambda: False)
        with pytest.raises(UnsupportedError, match="no UCX 1.21 or newer was found"):
            ucx_library.load.__wrapped__()


class TestLanes:
    hello = Hello(
        node_id="n",
        node_version="1",
        capability=b"",
        data_address=b"",
        rdma_address=b"",
        data_port=1,
        local_socket=__file__,
        host_id=host_id(),
        max_block_bytes=1,
    )

    def test_the_same_host(self):
        assert candidates("auto", self.hello) == ("mapped", "tcp")

    def test_the_same_kernel_but_another_container(self):
        assert candidates("auto", replace(self.hello, local_socket="/not/here")) == ("tcp",)

    def test_another_host(self):
        assert candidates("auto", replace(self.hello, host_id="another")) == ("tcp",)

    @pytest.mark.parametrize("lane", ["mapped", "shm", "tcp"])
    def test_a_lane_that_was_asked_for_is_tried_alone(self, lane):
        assert candidates(lane, replace(self.hello, host_id="another")) == (lane,)


class TestAddresses:
    def test_numeric_hosts(self):
        assert NodeAddress("127.0.0.1", 1).numeric_hosts() == ["127.0.0.1"]
        assert NodeAddress("::1", 1).numeric_hosts() == ["::1"]
        assert "127.0.0.1" in NodeAddress("localhost", 1).numeric_hosts()


def test_a_deadline_runs_down_and_never_to_zero():
    deadline = Deadline(50)
    assert 1 <= deadline.left_ms() <= 50
    wait_until(deadline.passed, "the deadline passes")
    assert deadline.left_ms() == 1


def _build_impostor(folder: Path, version: str) -> Path:
    """A library that says it is UCX of another version."""
    source = folder / "ucp.c"
    source.write_text(
        "void ucp_get_version(unsigned* a, unsigned* b, unsigned* c) {\n"
        f"  unsigned version[] = {{{version}}};\n"
        "  *a = version[0]; *b = version[1]; *c = version[2];\n}\n"
    )
    library = folder / "libucp.so.0"
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libucp.so.0", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return library
