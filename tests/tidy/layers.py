"""Who may import whom. Imports point down only, in Python and in C++; a new room gets a line here first."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.tidy import Violation
from tests.tidy.cpp_rules import includes

_FOUNDATION = {"errors", "status", "layout", "keys", "config"}
_CORE = _FOUNDATION | {"proto", "_native", "transport"}
PYTHON_LAYERS = {
    "errors": set(),
    "status": set(),
    "layout": {"errors"},
    "keys": {"errors", "layout"},
    "config": {"errors"},
    "proto": set(),
    "_native": set(),
    "transport": _FOUNDATION | {"proto", "_native"},
    "disks": _CORE,
    # disks: an embedded store is a node in the client's process.
    "client": _CORE | {"disks"},
    "server": _CORE | {"disks"},
    "codecs": _FOUNDATION,
    "swarm": _FOUNDATION | {"client"},
    "connectors": _FOUNDATION | {"client"},
    "dashboard": _FOUNDATION | {"client"},
    "demo": _FOUNDATION | {"client", "connectors"},
    "bench": _FOUNDATION | {"client", "transport", "_native", "server"},
    "cli": _CORE | {"disks", "client", "server", "swarm", "dashboard", "demo", "bench"},
    "__init__": _FOUNDATION | {"client"},
}
# What the package offers at its top lives in these rooms; `import kvstore` as a whole counts as the client.
PUBLIC_NAMES = {"Namespace": "keys", "KVLayout": "layout", "Status": "status", "__version__": "errors"}
# Heavy and optional: only these rooms may need them to be imported.
ENGINES = {"torch", "transformers", "cupy", "vllm", "sglang", "lmcache", "tensorrt_llm"}
ENGINE_ROOMS = {"connectors", "demo", "bench"}

CPP_LAYERS = {
    "base": set(),
    "bench": {"base", "memory", "disk", "store"},
    "memory": {"base"},
    "disk": {"base", "memory"},
    "store": {"base", "memory", "disk"},
    "wire": {"base"},
    # memory: the same-host channel is a mapped memfd.
    "transport": {"base", "memory", "wire"},
    "node": {"base", "memory", "disk", "store", "wire", "transport"},
    "client": {"base", "memory", "wire", "transport"},
}


def check_python_layers(path: str, text: str) -> list[Violation]:
    """Imports of a module of `kvstore/` that point up or sideways, at any depth of the code."""
    parts = path.removesuffix(".pyi").removesuffix(".py").split("/")
    room = parts[1]
    if room not in PYTHON_LAYERS:
        return [Violation(path, 1, "layers", f"{room} is no known room of kvstore; give it a line in PYTHON_LAYERS")]
    allowed = PYTHON_LAYERS[room] | {room}
    violations = []
    for line, target in _python_imports(parts, ast.parse(text, path)):
        if target in ENGINES and room not in ENGINE_ROOMS:
            violations.append(Violation(path, line, "layers", f"{room} must work without {target}"))
        if target.startswith("kvstore.") and target.removeprefix("kvstore.") not in allowed:
            violations.append(Violation(path, line, "layers", f"{room} may not use {target}"))
    return violations


def _python_imports(parts: list[str], tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level package or "kvstore.<room>") of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, _target(alias.name.split("."), "")
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = parts[: len(parts) - node.level] + module
            for alias in node.names:
                yield node.lineno, _target(module, alias.name)


def _target(module: list[str], name: str) -> str:
    if module[0] != "kvstore":
        return module[0]
    if len(module) > 1:
        return f"kvstore.{module[1]}"
    return f"kvstore.{name if name in PYTHON_LAYERS else PUBLIC_NAMES.get(name, 'client')}"


def check_cpp_layers(path: str, text: str) -> list[Violation]:
    """Includes of a file of `native/src/` that point up or sideways."""
    room = path.split("/")[2]
    if room not in CPP_LAYERS:
        return [Violation(path, 1, "layers", f"{room} is no known room of native/src; give it a line in CPP_LAYERS")]
    allowed = CPP_LAYERS[room] | {room}
    return [
        Violation(path, line, "layers", f"{room} may not include {included}")
        for line, included in includes(text)
        if included.split("/")[0] not in allowed
    ]
