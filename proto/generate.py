"""Generates kvstore/proto/v1 from proto/kvstore/v1.

    pip install 'grpcio-tools==1.66.2' && python proto/generate.py

Generated code demands a runtime at least as new as its generator, so the generator is old on purpose: it sets the floor
of protobuf and grpcio that this package can be installed with. The `.pyi` of the services is written by hand, because
this generator has none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto" / "kvstore" / "v1"
TARGET = ROOT / "kvstore" / "proto" / "v1"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        sources = [str(path.relative_to(ROOT)) for path in sorted(SOURCES.glob("*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *outputs, *sources]
        subprocess.run(command, check=True, cwd=ROOT)
        for path in Path(folder, "kvstore", "v1").iterdir():
            # protoc names modules after the proto package; here they live one package deeper.
            path.write_text(path.read_text().replace("from kvstore.v1 import", "from kvstore.proto.v1 import"))
            shutil.move(path, TARGET / path.name)


if __name__ == "__main__":
    main()
