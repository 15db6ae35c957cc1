"""What is loaded only by those who need it: a client is light, and so is a node without disks or metrics."""

import subprocess
import sys

import pytest

HEAVY = ("rocksdict", "prometheus_client", "torch", "transformers")


NODE = """
import asyncio
from kvstore.config import NodeConfig
from kvstore.server.node_server import NodeServer

async def serve():
    async with NodeServer(NodeConfig(listen="127.0.0.1:0", memory_bytes=64 << 20)):
        pass

asyncio.run(serve())
"""


@pytest.mark.parametrize(
    "use",
    [
        "import kvstore",
        "import kvstore; store = kvstore.connect('embedded://?memory=64MiB'); store.close()",
        "import kvstore; store = kvstore.connect_polled('embedded://?memory=64MiB'); store.close()",
        "import kvstore.connectors.core",
        "import kvstore.server.serve",
        NODE,
    ],
    ids=["package", "embedded store", "embedded store, polled", "connectors", "server", "node"],
)
def test_neither_disks_nor_metrics_nor_engines_are_loaded(use):
    script = f"{use}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_the_check_can_fail():
    script = "import kvstore.disks.catalog, sys; print('rocksdict' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "True\n"
