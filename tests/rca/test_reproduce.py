"""What an operator is told to paste cannot be turned by whoever names a process, a file or a cgroup."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from wardround.shell import command

ROOT = Path(__file__).parents[2]
# Numbers, what is built here of numbers, and words this program chose itself.
OURS = re.compile(r"(.*\.)?pid|users\[0\]|enter\(view, netns\)|resource")


def _inserted(source: Path) -> list[str]:
    """Expressions put unquoted into a `reproduce` text."""
    found = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "reproduce":
            quoted = {
                id(inner)
                for call in ast.walk(node.value)
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("command", "in_logs")
                for argument in call.args[1:]
                for inner in ast.walk(argument)
            }
            found += [
                ast.unparse(part.value)
                for part in ast.walk(node.value)
                if isinstance(part, ast.FormattedValue) and id(part) not in quoted
            ]
    return found


@pytest.mark.parametrize("source", sorted((ROOT / "rca").rglob("*.py")), ids=lambda path: path.stem)
def test_host_words_are_quoted(source: Path) -> None:
    assert [text for text in _inserted(source) if not OURS.fullmatch(text)] == []


@pytest.mark.parametrize("name", ["a; reboot", "$(id)", "`id`", "it's", "-rf /", "a\nb", "", "\x1b]0;x\x07"])
def test_a_hostile_word_stays_one_word(name: str) -> None:
    assert shlex.split(command("df -h -- {}", name)) == ["df", "-h", "--", name]
