"""Two LMCache servers, one after the other: what the first has stored, the second finds in the node.

    python examples/lmcache_two_servers.py                                   # starts a node of its own
    python examples/lmcache_two_servers.py --node kv://127.0.0.1:7400 --adapter native_plugin

Needs LMCache 0.5 beside this package; no GPU and no engine, because LMCache's own `bench server` takes the engine's
place: it computes, stores and retrieves KV and compares checksums. Exits with 1 if the second server finds nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 60.0
REQUESTS = 3
ENVIRONMENT = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_DISABLE_BANNER": "1"}
ADAPTERS = {
    "plugin": ("KVStoreL2Adapter", {}),
    # LMCache tells it nothing about the objects, so the operator has to.
    "native_plugin": ("KVStoreNativePlugin", {"dtype": "bfloat16"}),
}


def l2_adapter(kind: str, endpoint: str) -> str:
    """What `lmcache server` takes after --l2-adapter."""
    name, said = ADAPTERS[kind]
    where = {"module_path": "kvstore.connectors.lmcache", "class_name": name}
    return json.dumps({"type": kind, **where, "adapter_params": {"endpoint": endpoint, **said}})


def free_port() -> int:
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m ARGUMENTS` until the block ends."""
    with log.open("wb") as output:
        running = subprocess.Popen([sys.executable, *arguments], env=ENVIRONMENT, stdout=output, stderr=output)
        try:
            yield running
        finally:
            running.terminate()
            running.wait()


def await_server(http_port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when LMCache's server is up; ends this program when it is not in time."""
    end_s = time.monotonic() + START_S
    while running.poll() is None and time.monotonic() < end_s:
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/healthcheck")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.2)
    sys.exit(f"LMCache's server is not up:\n{log.read_text()}")


@contextlib.contextmanager
def node(folder: Path) -> Iterator[str]:
    """The address of a node of our own."""
    ready, log = folder / "ready", folder / "node.log"
    command = ["-c", "from kvstore.cli.main import main; main()", "serve", "--listen", "127.0.0.1:0"]
    with process([*command, "--memory", "512MiB", "--ready-file", str(ready)], log) as running:
        end_s = time.monotonic() + START_S
        while not ready.exists():
            if running.poll() is not None or time.monotonic() > end_s:
                sys.exit(f"the node does not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield f"kv://{ready.read_text().strip()}"


def serve(number: int, adapter: str, folder: Path) -> list[int]:
    """Runs a server and requests against it; how many chunks of each it found at first."""
    port, http_port, log = free_port(), free_port(), folder / f"server-{number}.log"
    places = ["--host", "127.0.0.1", "--port", str(port), "--http-host", "127.0.0.1", "--http-port", str(http_port)]
    # skip_l1 and noop: its own memory keeps nothing, so everything it finds comes from the node.
    memory = ["--l1-size-gb", "0.5", "--no-l1-use-lazy", "--eviction-policy", "noop", "--l2-store-policy", "skip_l1"]
    flags = [*places, *memory, "--supported-transfer-mode", "auto", "--shm-name", f"kvstore-{port}"]
    lmcache = ["-m", "lmcache.cli.main"]
    with process([*lmcache, "server", *flags, "--l2-adapter", adapter], log) as running:
        await_server(http_port, running, log)
        urls = ["--rpc-url", f"tcp://127.0.0.1:{port}", "--url", f"http://127.0.0.1:{http_port}", "--mode", "cpu"]
        shape = ["--num-tokens", "2048", "--kvcache-shape-spec", "(2,256,16,4,64):bfloat16:8"]
        bench = [sys.executable, *lmcache, "bench", "server", *urls, *shape, "--start", "0", "--end", str(REQUESTS)]
        printed = subprocess.run(bench, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    print(f"server {number}", *re.findall(r"\[seq .*", printed), sep="\n  ")
    return [int(hits) for hits in re.findall(r"/cold\] LOOKUP: (\d+)/", printed)]


def main() -> int:
    """Runs the two servers and compares what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", help="address of a node; without it, one is started")
    parser.add_argument("--adapter", choices=ADAPTERS, default="plugin")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        endpoint = arguments.node or stack.enter_context(node(folder))
        adapter = l2_adapter(arguments.adapter, endpoint)
        first, second = (serve(number, adapter, folder) for number in (1, 2))
    print(f"chunks found at first: {first} by the first server, {second} by the second")
    return 0 if any(second) else 1


if __name__ == "__main__":
    sys.exit(main())
