"""The house style as code: functions from a source text to the places where it breaks a rule.

`python_rules` and `cpp_rules` know sizes and banned constructs, `layers` knows who may import whom. test_tidy.py
applies them to the tree, and shows for every rule a text that breaks it.
"""

from dataclasses import dataclass

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
# Written in halves, so that this file does not carry the words it looks for.
UNFINISHED_WORDS = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")


@dataclass(frozen=True, order=True)
class Violation:
    """One place that breaks one rule. `path` is relative to the root of the repository, with slashes."""

    path: str
    line: int
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.detail}"


def check_file_length(path: str, text: str) -> list[Violation]:
    lines = text.count("\n") + 1
    return [Violation(path, lines, "file length", f"{lines} lines")] if lines > FILE_LINES_MAX + 1 else []


def check_function_length(path: str, name: str, first_line: int, last_line: int) -> list[Violation]:
    lines = last_line - first_line + 1
    if lines <= FUNCTION_LINES_MAX:
        return []
    return [Violation(path, first_line, "function length", f"{name} has {lines} lines")]
