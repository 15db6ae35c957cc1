"""The house style, enforced. First the tree; then, for every rule, a planted violation that it must find."""

from pathlib import Path

import pytest

from tests.tidy import FILE_LINES_MAX, UNFINISHED_WORDS, Violation
from tests.tidy.cpp_rules import check_cpp, functions, tokenize
from tests.tidy.layers import CPP_LAYERS, PYTHON_LAYERS, check_cpp_layers, check_python_layers
from tests.tidy.python_rules import check_python

ROOT = Path(__file__).parents[1]
# (rule, file): why. One that is no longer needed fails the test.
EXEMPTIONS = {
    ("wall clock", "native/src/base/clock.cpp"): "the seam itself: where the time of day enters the process",
    ("unseeded randomness", "kvstore/transport/entropy.py"): "the seam itself: where randomness enters the process",
}


def sources(folders, *patterns):
    """(path relative to the root, text) of each file written by hand."""
    for folder in folders:
        for pattern in patterns:
            for file in sorted((ROOT / folder).rglob(pattern)):
                if "_pb2" not in file.name:
                    yield file.relative_to(ROOT).as_posix(), file.read_text()


def violations_of_the_tree():
    for path, text in sources(["kvstore", "tests", "benchmarks", "proto"], "*.py", "*.pyi"):
        yield from check_python(path, text, is_test=path.startswith("tests/"))
        if path.startswith("kvstore/"):
            yield from check_python_layers(path, text)
    for path, text in sources(["native"], "*.h", "*.cpp"):
        yield from check_cpp(path, text, is_test=path.startswith("native/tests/"))
        if path.startswith("native/src/"):
            yield from check_cpp_layers(path, text)


def test_the_tree_is_tidy():
    found = list(violations_of_the_tree())
    assert not [str(violation) for violation in found if (violation.rule, violation.path) not in EXEMPTIONS]
    assert EXEMPTIONS.keys() <= {(violation.rule, violation.path) for violation in found}, "an exemption is not needed"


def test_the_tree_was_looked_at():
    python = {path for path, _ in sources(["kvstore", "tests"], "*.py")}
    assert {"kvstore/keys.py", "tests/tidy/layers.py", "tests/test_tidy.py"} <= python
    assert len({path for path, _ in sources(["native"], "*.h", "*.cpp")}) > 20


def rules(violations):
    return [violation.rule for violation in violations]


def python(text):
    return rules(check_python("kvstore/planted.py", text, is_test=False))


def cpp(text):
    return rules(check_cpp("native/src/base/planted.cpp", text, is_test=False))


def named_functions(text):
    code = [token for token in tokenize(text) if token.kind not in {"comment", "directive"}]
    return [(f.name, f.first_line, f.last_line) for f in functions(code)]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("unsafe serialisation", "import pickle"),
        ("unsafe serialisation", "import os, marshal as m"),
        ("unsafe serialisation", "from pickle import loads"),
        ("unsafe serialisation", "def f():\n    import cloudpickle"),
        ("unsafe serialisation", "import torch\ntorch.load(path)"),
        ("unsafe serialisation", "import torch as t\nt.load(path, weights_only=False)"),
        ("unsafe serialisation", "import numpy as np\nnp.load(path, allow_pickle=True)"),
        ("dynamic code", "eval('1')"),
        ("dynamic code", "exec(text, {})"),
        ("wall clock", "import time\ntime.time()"),
        ("wall clock", "import time as t\ndef f(now=t.time_ns): ..."),
        ("wall clock", "from time import time\ntime()"),
        ("wall clock", "import datetime\ndatetime.datetime.now(datetime.UTC)"),
        ("wall clock", "from datetime import datetime as d\nd.utcnow()"),
        ("unseeded randomness", "import random\nrandom.random()"),
        ("unseeded randomness", "import random\nrandom.Random()"),
        ("unseeded randomness", "from random import shuffle\nshuffle(x)"),
        ("unseeded randomness", "import numpy as np\nnp.random.rand(3)"),
        ("unseeded randomness", "import numpy as np\nnp.random.default_rng()"),
        ("unseeded randomness", "import os\nos.urandom(8)"),
        ("unseeded randomness", "import secrets\nsecrets.token_bytes(8)"),
        ("unseeded randomness", "import uuid\nuuid.uuid4()"),
        ("sleep in a loop", "import time\nwhile not done():\n    time.sleep(0.1)"),
        ("sleep in a loop", "import asyncio\nasync def f():\n    for i in x:\n        await asyncio.sleep(1)"),
        ("sleep in a loop", "from time import sleep\nwhile True:\n    if x:\n        sleep(1)"),
        ("bind to all interfaces", "HOST = '0.0.0.0:7400'"),
        ("bind to all interfaces", "def f(host='::'): ..."),
        ("bind to all interfaces", "listen = '[::]:7400'"),
        ("bind to all interfaces", "sock.bind(('', 7400))"),
        ("bind to all interfaces", "import socket\nsocket.INADDR_ANY"),
        ("swallowed exception", "try:\n    f()\nexcept Exception:\n    pass"),
        ("swallowed exception", "try:\n    f()\nexcept:\n    ..."),
        (
            "swallowed exception",
            "for x in y:\n    try:\n        f()\n    except (OSError, BaseException):\n        continue",
        ),
        ("swallowed exception", "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
        *(("unfinished work", f"x = 1  # {word}: later") for word in UNFINISHED_WORDS),
        ("function length", "def f():\n" + "    x = 1\n" * 70),
        ("function length", "class A:\n    async def f(self):\n" + "        x = 1\n" * 70),
        ("file length", "x = 1\n" * (FILE_LINES_MAX + 1)),
    ],
)
def test_planted_in_python(rule, text):
    assert python(text) == [rule]


@pytest.mark.parametrize(
    "text",
    [
        '"""We never pickle, eval or bind to 0.0.0.0."""',
        "import time\nstart_s = time.monotonic()",
        "import time\ntime.sleep(1)",
        "import time\nfor x in y:\n    def f():\n        time.sleep(1)",
        "import random\ndef f(jitter: random.Random): return jitter.random()",
        "import random\nrandom.Random(7).random()",
        "def f(random, time): return random.random() + time.time()",
        "import numpy as np\nnp.random.default_rng(seed=1)",
        "import torch\ntorch.load(path, weights_only=True)",
        "model.eval()",
        "try:\n    f()\nexcept Exception:\n    log()\n    raise",
        "try:\n    f()\nexcept OSError:\n    pass",
        "sock.bind(('127.0.0.1', 0))",
        f"text = '# {UNFINISHED_WORDS[0]}'",
        "def f():\n" + "    x = 1\n" * 69,
        "x = 1\n" * FILE_LINES_MAX,
    ],
)
def test_allowed_in_python(text):
    assert python(text) == []


def test_tests_may_do_what_the_product_may_not():
    text = "import pickle, random, time\nwhile random.random():\n    time.sleep(1)\n"
    assert len(set(python(text))) == 3
    assert check_python("tests/test_planted.py", text, is_test=True) == []
    assert rules(check_python("tests/test_planted.py", "def f():\n" + "    x\n" * 70, is_test=True)) == [
        "function length"
    ]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("wall clock", "auto now() { return std::chrono::system_clock::now(); }"),
        ("wall clock", "void f(timespec* t) { clock_gettime(CLOCK_REALTIME, t); }"),
        ("wall clock", "long f() { return ::time(nullptr); }"),
        ("unseeded randomness", "int f() { return rand() % 6; }"),
        ("unseeded randomness", "std::mt19937 engine{std::random_device{}()};"),
        ("sleep", "void f() { std::this_thread::sleep_for(1ms); }"),
        ("sleep", "void f() {\n  for (;;) usleep(10);\n}"),
        ("sleep", "void f() { ::sleep(1); }"),
        ("bind to all interfaces", "uint32_t host = htonl(INADDR_ANY);"),
        ("bind to all interfaces", 'const char* kHost = "0.0.0.0";'),
        *(("unfinished work", f"int x;  // {word}(me): later") for word in UNFINISHED_WORDS),
        ("unfinished work", f"/* one\n   {UNFINISHED_WORDS[1]} */"),
        ("function length", "void f() {\n" + "  x();\n" * 69 + "}"),
        ("file length", "int x;\n" * (FILE_LINES_MAX + 1)),
        ("unbalanced braces", "void f() { if (x) { }\n"),
        ("unbalanced braces", "void f() { ) }\n"),
        ("unbalanced braces", "namespace a {\n"),
        ("unbalanced braces", "}\n"),
    ],
)
def test_planted_in_cpp(rule, text):
    assert cpp(text) == [rule]


@pytest.mark.parametrize(
    "text",
    [
        "// system_clock, rand() and 0.0.0.0 in a comment",
        "#include <ctime>",
        'const char* kText = "usleep(1); }";',
        "int f() { return worker.rand() + node->time(1); }",
        "uint64_t time(const Clock& clock);",
        "bool prepare_sleep() { return sleeping_; }",
        f'const char* kText = "{UNFINISHED_WORDS[0]}";',
        "void f() {\n" + "  x();\n" * 68 + "}",
        "int x;\n" * FILE_LINES_MAX,
    ],
)
def test_allowed_in_cpp(text):
    assert cpp(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int f() { return 1; }", [("f", 1, 1)]),
        ("namespace a::b {\nint f()\n{\n}\n}\nint g() {}", [("f", 2, 4), ("g", 6, 6)]),
        ("class A : public B<C(int)> {\n public:\n  ~A() override {}\n  int x_ = 1;\n};", [("~A", 3, 3)]),
        ("A::A(int a) : a_(a), b_{a}, C<int>{1} {\n  f();\n}", [("A", 1, 3)]),
        ("A::A() noexcept(true) : a_{[] { return 1; }()} {}", [("A", 1, 1)]),
        ("template <typename T, size_t N = (1 > 2)>\nrequires(N == 1)\nT f(T t = {}) { return t; }", [("f", 1, 3)]),
        ("template <class T = std::vector<std::pair<int, int>>>\nvoid f() {}", [("f", 1, 2)]),
        ("auto f() -> std::function<void()> { return {}; }", [("f", 1, 1)]),
        ("bool operator==(const A& a) const { return x == a.x; }", [("operator==", 1, 1)]),
        ("int operator()(int x) const noexcept { return x; }", [("operator", 1, 1)]),
        ("explicit operator bool() const { return true; }", [("operatorbool", 1, 1)]),
        ("[[nodiscard]] static inline struct stat f(int x[2]) { return {}; }", [("f", 1, 1)]),
        ('extern "C" {\nvoid f() {}\n}\nextern "C" void g() {}', [("f", 2, 2), ("g", 4, 4)]),
        ("struct alignas(64) A {\n  void f() {}\n};", [("f", 2, 2)]),
        ("struct __attribute__((packed)) A { void f() {} };", [("f", 1, 1)]),
        ("enum class A : uint8_t { kOne = 1, kTwo };", []),
        ("std::atomic<int> a{1};\nint b[] = {1, 2};\nstatic const A c = {.x = {1}};\nA d{f(1)};", []),
        ("auto f = [](int x) {\n  return x;\n};", [("f", 1, 3)]),
        ("void f() {\n  auto g = [&] { if (x) { } };\n  struct L { void h() {} };\n}", [("f", 1, 4)]),
        ("TEST(arena, grows) {\n}", [("TEST", 1, 2)]),
        ("template <class T>\nconcept C = requires(T t) { t.f(); };", []),
        (
            "const char* f() { return \"}\\\"{\"; /* { */ } // {\nvoid g() { x = '{'; y = 1'000'000; }",
            [("f", 1, 1), ("g", 2, 2)],
        ),
        ('auto f() { return R"x(}})" }x" )x"; }\nint g() {}', [("f", 1, 1), ("g", 2, 2)]),
        (
            "#define BODY(x) \\\n  { x\nvoid f() {}  // one line\n#if A  // {\n#endif\nint g() {}",
            [("f", 3, 3), ("g", 6, 6)],
        ),
        ("union { int a; float b; };\ntypedef struct { int x; } S;\nvoid f() {}", [("f", 3, 3)]),
        ("void f(int a = 1,\n       B b = {1, 2}) {\n}", [("f", 1, 3)]),
    ],
)
def test_the_scanner_finds_functions(text, expected):
    assert named_functions(text) == expected


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kvstore/errors.py", "import kvstore"),
        ("kvstore/layout.py", "from kvstore.keys import Namespace"),
        ("kvstore/keys.py", "from kvstore import connect"),
        ("kvstore/config.py", "def f():\n    from kvstore.client import url"),
        ("kvstore/transport/lanes.py", "from kvstore.client import Client"),
        ("kvstore/client/client.py", "import kvstore.server.node"),
        ("kvstore/server/node.py", "from kvstore.client import Client"),
        ("kvstore/server/node.py", "from kvstore import Client"),
        ("kvstore/server/node.py", "from ..client import Client"),
        ("kvstore/connectors/vllm.py", "from kvstore import _native"),
        ("kvstore/connectors/vllm.py", "from kvstore.transport import lanes"),
        ("kvstore/client/__init__.py", "import torch"),
        ("kvstore/_native.pyi", "from kvstore.keys import Namespace"),
        ("kvstore/utils.py", ""),
        ("kvstore/misc/deep/file.py", ""),
    ],
)
def test_planted_python_imports(path, text):
    assert rules(check_python_layers(path, text)) == ["layers"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kvstore/__init__.py", "from kvstore.client import Client\nfrom kvstore import errors"),
        ("kvstore/keys.py", "import numpy\nfrom kvstore.layout import KVLayout"),
        (
            "kvstore/client/client.py",
            "from kvstore import _native, errors\nfrom . import results\nfrom ..transport import lanes",
        ),
        ("kvstore/server/node.py", "from kvstore import __version__, Namespace\nfrom .hello import Hello"),
        ("kvstore/connectors/transformers.py", "import torch\nimport kvstore\nfrom kvstore.client import Client"),
    ],
)
def test_allowed_python_imports(path, text):
    assert check_python_layers(path, text) == []


@pytest.mark.parametrize(
    ("path", "included"),
    [
        ("native/src/base/clock.cpp", "memory/arena.h"),
        ("native/src/memory/arena.cpp", "store/block_store.h"),
        ("native/src/wire/frame.cpp", "memory/arena.h"),
        ("native/src/store/index.cpp", "wire/frame.h"),
        ("native/src/transport/ucx_worker.cpp", "node/node.h"),
        ("native/src/node/node.cpp", "client/client.h"),
        ("native/src/client/client.cpp", "node/node.h"),
        ("native/src/client/client.cpp", "store/block_store.h"),
        ("native/src/base/clock.cpp", "clock.h"),
        ("native/src/helpers/all.h", "base/key.h"),
    ],
)
def test_planted_includes(path, included):
    assert rules(check_cpp_layers(path, f'#include <vector>\n\n#  include "{included}"\n')) == ["layers"]


def test_allowed_includes():
    text = '#include <store/vector>\n// #include "node/node.h"\n#include "store/a.h"\n#include "base/key.h"\n'
    assert check_cpp_layers("native/src/store/index.cpp", text) == []


@pytest.mark.parametrize("layers", [PYTHON_LAYERS, CPP_LAYERS], ids=["python", "cpp"])
def test_the_layers_have_no_cycle(layers):
    below: dict[str, set[str]] = {}
    while len(below) < len(layers):
        ready = [room for room, used in layers.items() if room not in below and used <= below.keys()]
        assert ready, f"a cycle among {sorted(layers.keys() - below.keys())}"
        below |= {room: layers[room] for room in ready}


def test_a_violation_says_where():
    assert str(Violation("a.py", 3, "wall clock", "time.time")) == "a.py:3: wall clock: time.time"
