"""Sizes and banned constructs in Python, on the syntax tree."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

from tests.tidy import UNFINISHED_WORDS, Violation, check_file_length, check_function_length

DYNAMIC_CODE = {"eval", "exec"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
WALL_CLOCK = {
    *("time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "time.strftime"),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
}
ENTROPY = {"os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4", "random.SystemRandom"}
# Fine with a seed; without one they fetch their own.
SEEDABLE = {"random.Random", "numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.SeedSequence"}
GENERATOR_TYPES = {"numpy.random.Generator", "numpy.random.PCG64", "numpy.random.Philox", "numpy.random.BitGenerator"}
SLEEPS = {"time.sleep", "asyncio.sleep"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
BLIND = {"Exception", "BaseException"}


def check_python(path: str, text: str, *, is_test: bool) -> list[Violation]:
    """Violations of one module. Tests may do what the product may not: sleep, draw, pickle; sizes hold for all."""
    tree = ast.parse(text, path)
    violations = check_file_length(path, text) + _function_lengths(path, tree) + _unfinished(path, text)
    if not is_test:
        names = _imported_names(tree)
        for node, in_loop in _walk(tree, in_loop=False):
            violations += [Violation(path, node.lineno, *found) for found in _banned(node, names, in_loop)]
    return sorted(violations)


def _function_lengths(path: str, tree: ast.Module) -> list[Violation]:
    return [
        violation
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
        for violation in check_function_length(path, node.name, node.lineno, node.end_lineno or node.lineno)
    ]


def _unfinished(path: str, text: str) -> list[Violation]:
    words = re.compile(rf"\b({'|'.join(UNFINISHED_WORDS)})\b")
    return [
        Violation(path, token.start[0], "unfinished work", token.string)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and words.search(token.string)
    ]


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for: {"np": "numpy", "now": "time.time"}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name.split(".")[0]  # `import a.b` binds a
                names[alias.asname or bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _walk(node: ast.AST, *, in_loop: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Each node with a position, and whether it runs again and again in a loop of its own function."""
    if isinstance(node, FUNCTIONS):
        in_loop = False
    in_loop = in_loop or isinstance(node, LOOPS)
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if hasattr(node, "lineno") and not is_docstring:
        yield node, in_loop
    if not is_docstring:
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, in_loop=in_loop)


def _banned(node: ast.AST, names: dict[str, str], in_loop: bool) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Import() | ast.ImportFrom():
            yield from _banned_import(node)
        case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
            yield from _banned_reference(_resolve(node, names))
        case ast.Call():
            yield from _banned_call(node, _resolve(node.func, names), in_loop)
        case ast.Constant(value=str(value)):
            if "0.0.0.0" in value or value in {"::", "[::]"} or value.startswith("[::]:"):
                yield "bind to all interfaces", repr(value)
        case ast.ExceptHandler():
            blind = node.type is None or bool(BLIND & {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)})
            if blind and all(_does_nothing(statement) for statement in node.body):
                yield "swallowed exception", "an error vanishes here"


def _banned_import(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for module in modules:
        if module.split(".")[0] in UNSAFE_MODULES:
            yield "unsafe serialisation", module


def _banned_reference(name: str) -> Iterator[tuple[str, str]]:
    """Also without a call: a banned function handed on as a default is still in use."""
    if name in WALL_CLOCK:
        yield "wall clock", name
    is_drawn = name.startswith(("random.", "numpy.random.", "secrets."))
    if name in ENTROPY or (is_drawn and name not in SEEDABLE | GENERATOR_TYPES):
        yield "unseeded randomness", name
    if name == "socket.INADDR_ANY":
        yield "bind to all interfaces", name


def _banned_call(node: ast.Call, name: str, in_loop: bool) -> Iterator[tuple[str, str]]:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in DYNAMIC_CODE:
        yield "dynamic code", name
    if name == "torch.load" and not _is_true(keywords.get("weights_only")):
        yield "unsafe serialisation", "torch.load without weights_only=True"
    if _is_true(keywords.get("allow_pickle")):
        yield "unsafe serialisation", "allow_pickle=True"
    if name in SEEDABLE and not node.args and not keywords:
        yield "unseeded randomness", f"{name}()"
    if name in SLEEPS and in_loop:
        yield "sleep in a loop", f"{name}: wait for what you are waiting for, with a deadline"
    if name == "contextlib.suppress" and BLIND & {a.id for a in node.args if isinstance(a, ast.Name)}:
        yield "swallowed exception", "suppress(Exception)"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "bind":
        match node.args:
            case [ast.Tuple(elts=[ast.Constant(value=""), *_]), *_]:
                yield "bind to all interfaces", 'bind(("", ...))'


def _resolve(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of what an expression refers to, as far as imports tell; "" for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if node.id in DYNAMIC_CODE else "")
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _does_nothing(statement: ast.stmt) -> bool:
    is_ellipsis = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_ellipsis or isinstance(statement, ast.Pass | ast.Continue)
