"""Sizes and banned constructs in C++, on tokens. No preprocessor: directives are set aside, and braces must balance
without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.tidy import UNFINISHED_WORDS, Violation, check_file_length, check_function_length

TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
    | (?P<directive>\#(?:\\\n|/\*.*?\*/|(?!//)[^\n])*)
    | (?P<string>(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"|(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*")
    | (?P<number>\.?[0-9](?:[eEpP][+-]|'?[\w.])*)  # before characters: 1'000 holds none
    | (?P<character>(?:u8|[uUL])?'(?:[^'\\\n]|\\.)+')
    | (?P<word>[A-Za-z_]\w*)
    | (?P<mark>::|->|.)
    """,
    re.VERBOSE | re.DOTALL,
)
CLOSING = {"(": ")", "[": "]", "{": "}"}
SPECIFIERS = {"static", "inline", "constexpr", "constinit", "typedef", "extern", "const", "friend", "thread_local"}
TYPE_SCOPES = {"class", "struct", "union", "enum"}

WALL_CLOCK = {"system_clock", "utc_clock", "gettimeofday", "CLOCK_REALTIME", "CLOCK_REALTIME_COARSE"}
ENTROPY = {"random_device", "getrandom", "getentropy", "arc4random", "drand48", "srand"}
SLEEPS = {"sleep_for", "sleep_until", "usleep", "nanosleep", "clock_nanosleep"}
WILDCARDS = {"INADDR_ANY", "in6addr_any", "IN6ADDR_ANY_INIT"}
# Common words that are banned only as calls of the C library's function.
CALLS = {"rand": "unseeded randomness", "random": "unseeded randomness", "time": "wall clock", "sleep": "sleep"}


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Function:
    name: str
    first_line: int
    last_line: int


def check_cpp(path: str, text: str, *, is_test: bool) -> list[Violation]:
    """Violations of one file. Tests may sleep and draw; sizes hold for all."""
    tokens = tokenize(text)
    violations = check_file_length(path, text) + _unfinished(path, tokens)
    code = [token for token in tokens if token.kind not in {"comment", "directive"}]
    try:
        for function in functions(code):
            violations += check_function_length(path, function.name, function.first_line, function.last_line)
    except UnbalancedError as error:
        violations.append(Violation(path, error.line, "unbalanced braces", "no function of this file can be measured"))
    if not is_test:
        violations += [Violation(path, token.line, rule, token.text) for token, rule in _banned(code)]
    return sorted(violations)


def tokenize(text: str) -> list[Token]:
    """All tokens but white space, with the line that each begins on."""
    tokens, line = [], 1
    for match in TOKEN.finditer(text):
        if match.lastgroup != "space":
            # A tagged raw string ends with the group of its tag.
            kind = "string" if match.lastgroup == "tag" else match.lastgroup
            tokens.append(Token(kind, match[0], line))
        line += match[0].count("\n")
    return tokens


def includes(text: str) -> list[tuple[int, str]]:
    """(line, path) of each `#include "path"`; system headers are left out."""
    found = ((t.line, re.match(r'#\s*include\s*"([^"]+)"', t.text)) for t in tokenize(text) if t.kind == "directive")
    return [(line, match[1]) for line, match in found if match]


class UnbalancedError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(f"unbalanced brackets from line {line}")
        self.line = line


def functions(code: list[Token]) -> Iterator[Function]:
    """The function definitions at namespace and class scope; lambdas and local classes belong to their function.

    Walks declarations: `head` is what was read since the last boundary, with each bracketed group folded into its
    opening token. Only a "{" needs thought: it opens a scope, a function body or an initialiser; the head tells which.
    """
    head: list[Token] = []
    scopes: list[Token] = []
    position = 0
    while position < len(code):
        token = code[position]
        position += 1
        if token.text == ";":
            head = []
        elif token.text == "}":
            if not scopes:
                raise UnbalancedError(token.line)
            scopes.pop()
            head = []
        elif token.text == ":" and head and head[-1].text in {"public", "protected", "private"}:
            head = []
        elif token.text not in CLOSING:
            head.append(token)
        elif token.text == "{" and (kind := _opens(head)) == "scope":
            scopes.append(token)
            head = []
        else:
            end = _closing(code, position - 1)
            position = end + 1
            if token.text == "{" and kind == "function":
                yield Function(_name(head), head[0].line, code[end].line)
                head = []
            else:
                head.append(token)
    if scopes:
        raise UnbalancedError(scopes[-1].line)


def _closing(code: list[Token], start: int) -> int:
    """The position of the bracket that closes the one at `start`."""
    expected = [CLOSING[code[start].text]]
    for position in range(start + 1, len(code)):
        text = code[position].text
        if text in CLOSING:
            expected.append(CLOSING[text])
        elif text == expected[-1]:
            expected.pop()
            if not expected:
                return position
        elif text in CLOSING.values():
            break
    raise UnbalancedError(code[start].line)


def _opens(head: list[Token]) -> str:
    """What a "{" after this head opens: a "scope", a "function" or an "initialiser"."""
    texts = [token.text for token in _declaration(head)]
    if not texts or "namespace" in texts[:2]:
        return "scope"
    if "operator" in texts:
        return "function"
    if "=" in texts:
        value = texts[texts.index("=") + 1 :]
        return "function" if value[:1] == ["["] else "initialiser"
    if texts[0] in TYPE_SCOPES and (":" in texts or "(" not in texts):
        return "scope"
    if "(" not in texts:
        return "initialiser"
    # In a constructor's list of members, `name_{` and `Base<T>{` hold a value; the body follows a closed group.
    in_member_list = ":" in texts[texts.index("(") :]
    return "initialiser" if in_member_list and texts[-1] not in CLOSING else "function"


def _declaration(head: list[Token]) -> list[Token]:
    """The head without template parameters, attributes, alignment, leading specifiers and linkage ("C")."""
    rest = list(head)
    while rest:
        if rest[0].text == "template" and len(rest) > 1 and rest[1].text == "<":
            depth, end = 1, 2
            while depth and end < len(rest):
                depth += {"<": 1, ">": -1}.get(rest[end].text, 0)
                end += 1
            rest = rest[end:]
        elif rest[0].text == "[" or rest[0].text in SPECIFIERS or rest[0].kind == "string":
            rest = rest[1:]
        else:
            break
    kept: list[Token] = []
    for token in rest:
        if token.text == "(" and kept and kept[-1].text in {"alignas", "__attribute__", "requires"}:
            kept.pop()
        else:
            kept.append(token)
    return kept


def _name(head: list[Token]) -> str:
    texts = [token.text for token in _declaration(head)]
    if "operator" in texts:
        return "".join(texts[texts.index("operator") :]).partition("(")[0]
    if "=" in texts:
        return texts[texts.index("=") - 1]
    before = texts[: texts.index("(")]
    return "~" + before[-1] if before[-2:-1] == ["~"] else before[-1]


def _unfinished(path: str, tokens: list[Token]) -> list[Violation]:
    words = re.compile(rf"\b({'|'.join(UNFINISHED_WORDS)})\b")
    comments = (token for token in tokens if token.kind == "comment" and words.search(token.text))
    return [Violation(path, token.line, "unfinished work", token.text) for token in comments]


def _banned(code: list[Token]) -> Iterator[tuple[Token, str]]:
    padded = [Token("mark", "", 0), *code, Token("mark", "", 0)]
    for before, token, after in zip(padded, code, padded[2:], strict=False):
        if token.kind == "string":
            if "0.0.0.0" in token.text or token.text in {'"::"', '"[::]"'}:
                yield token, "bind to all interfaces"
        elif token.kind == "word":
            for rule, words in (
                ("wall clock", WALL_CLOCK),
                ("unseeded randomness", ENTROPY),
                ("sleep", SLEEPS),
                ("bind to all interfaces", WILDCARDS),
            ):
                if token.text in words:
                    yield token, rule
            # A method of that name is another matter, and so is a declaration (`Time time(...)`).
            is_declared = before.kind == "word" and before.text not in {"return", "else", "case"}
            if token.text in CALLS and after.text == "(" and before.text not in {".", "->"} and not is_declared:
                yield token, CALLS[token.text]
