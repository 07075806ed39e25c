"""Follow-up questions about a dump: each kind answers, none is unbounded, and hostile input is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from collectors.vmcore import questions
from collectors.vmcore.questions import MOST_LINES, MOST_TEXT, QUESTION, answer
from collectors.vmcore.read import ask, read_crash
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.opened import opened
from wardround.errors import UserError


def _ask(path: Path, **asked: Any) -> str:
    return answer(opened(path), QUESTION.validate_python(asked))


@pytest.mark.parametrize("series", SERIES)
def test_each_kind_of_question_is_answered(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("abba", series)
    vmcore = read_crash(dump.path)
    waiting = next(task for task in vmcore.tasks if task.comm == dump.expected["tasks"][0])
    stack = _ask(dump.path, ask="stack", pid=waiting.pid)
    assert waiting.comm in stack
    assert "jtable" in stack
    lock = next(lock for lock in vmcore.locks if lock.symbol in dump.expected["locks"])
    told = _ask(dump.path, ask="lock", address=lock.address)
    assert "held by" in told
    assert "waits:" in told
    structure = _ask(dump.path, ask="struct", type="mutex", address=lock.address)
    assert ".wait_list = " in structure
    assert structure.startswith("(struct mutex){")
    assert "init_task" in _ask(dump.path, ask="variable", name="init_task")
    assert "lines hold 'linux version'" in _ask(dump.path, ask="log", text="linux version")


def test_answers_are_bounded(vmcores: Vmcores) -> None:
    path = vmcores.get("abba").path
    for asked in (
        {"ask": "struct", "type": "task_struct", "address": opened(path).prog.symbol("init_task").address},
        {"ask": "variable", "name": "init_task"},
        {"ask": "variable", "name": "__per_cpu_offset"},
        {"ask": "log", "text": "  "},
        {"ask": "log", "text": ": "},
    ):
        told = _ask(path, **asked)
        assert len(told) <= MOST_TEXT + 10
        assert len(told.splitlines()) <= MOST_LINES + 400


@pytest.mark.parametrize(
    "asked",
    [
        {"ask": "struct", "type": "task_struct; import os", "address": 1},
        {"ask": "struct", "type": "a" * 129, "address": 1},
        {"ask": "struct", "type": "task_struct", "address": 1 << 64},
        {"ask": "variable", "name": "__import__('os')"},
        {"ask": "stack", "pid": -1},
        {"ask": "log", "text": "x"},
        {"ask": "log", "text": "x" * 101},
        {"ask": "python", "code": "1"},
        {"ask": "stack", "pid": 1, "more": 2},
    ],
)
def test_what_is_no_question_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QUESTION.validate_python(asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"ask": "stack", "pid": 4_000_000},
        {"ask": "struct", "type": "no_such_thing", "address": 4096},
        {"ask": "variable", "name": "no_such_thing"},
        {"ask": "lock", "address": 0},
    ],
)
def test_what_the_dump_does_not_hold_is_told(vmcores: Vmcores, asked: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        _ask(vmcores.get("abba").path, **asked)


def test_memory_that_is_not_there_is_a_sentence(vmcores: Vmcores) -> None:
    path = vmcores.get("abba").path
    for address in (0, 0x41414141, 0xDEAD000000000100, (1 << 64) - 8):
        question = QUESTION.validate_python({"ask": "struct", "type": "task_struct", "address": address})
        with pytest.raises(UserError, match="dump"):
            ask(path, question)


def test_a_question_runs_in_a_process_of_its_own_and_its_text_is_cleaned(
    vmcores: Vmcores, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ask(vmcores.get("abba").path, QUESTION.validate_python({"ask": "log", "text": "kernel panic"}))
    assert "Kernel panic - not syncing" in told
    assert questions._cleaned("\ttoken=abcdefgh1234\x1b[31m") == "    token=[redacted]"
