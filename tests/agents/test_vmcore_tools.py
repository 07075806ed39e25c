"""Follow-ups about a crash: typed, bounded, cleaned, and answered only from what belongs to the crash."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from agents.context import follow_ups, open_tools
from agents.events import nobody
from agents.tools.base import RefusedError, Toolset
from agents.words import MOST_TEXT
from rca.case import Case
from rca.ground import grounded
from rca.view import View
from tests.agents import crashes, observations
from wardround.models.observation import Observation
from wardround.settings import Budget


def _tools(observation: Observation | None = None, calls: int = 24) -> Toolset:
    observation = observation or crashes.after(observations.healthy(), crashes.deadlock())
    return open_tools(Case(View(observation)), Budget(tool_calls=calls), nobody)


def test_without_a_crash_there_are_no_such_tools() -> None:
    assert not [name for name in _tools(observations.healthy()).tools() if name.startswith("vmcore.")]
    assert {t.name for t in follow_ups(Case(View(crashes.after(observations.healthy(), crashes.deadlock()))))} >= {
        "vmcore.stack",
        "vmcore.lock",
        "vmcore.log",
        "vmcore.struct",
        "vmcore.variable",
    }


def test_the_stack_of_a_task() -> None:
    (evidence,) = _tools().call("vmcore.stack", {"pid": 144})
    assert "jt_compact (pid 144) in state D, off the CPU for 130.0 s" in evidence.statement
    assert "__mutex_lock+0x10 ← jt_drop+0x10 [jtable]" in evidence.statement
    assert evidence.reproduce == "diagnose vmcore show /var/crash/1/vmcore --stack 144"
    assert (evidence.kind, evidence.trust) == ("vmcore", "kernel")


@pytest.mark.parametrize("lock", ["index_lock", "0xffffffffc0a01000"])
def test_who_holds_a_lock_and_who_waits(lock: str) -> None:
    (evidence,) = _tools().call("vmcore.lock", {"lock": lock})
    assert "held by jt_compact (pid 144) (read); 1 wait for it: jt_commit (pid 143)" in evidence.statement
    assert evidence.reproduce == "diagnose vmcore show /var/crash/1/vmcore --lock 0xffffffffc0a01000"


def test_lines_of_the_log_are_text_of_outsiders_without_their_secrets() -> None:
    (evidence,) = _tools().call("vmcore.log", {"text": "LOGIN"})
    assert evidence.trust == "text"
    assert evidence.values["lines"] == 1
    assert crashes.SECRET not in evidence.statement


def test_every_answer_is_bounded_and_its_figures_are_its_values() -> None:
    vmcore = crashes.deadlock()
    deep = replace(vmcore.tasks[0], stack=vmcore.tasks[0].stack * 400, comm="a\x1b[31mb")
    vmcore = replace(vmcore, tasks=(deep, *vmcore.tasks[1:]))
    tools = _tools(crashes.after(observations.healthy(), vmcore))
    for name, arguments in (("vmcore.stack", {"pid": 143}), ("vmcore.lock", {"lock": "index_lock"})):
        (evidence,) = tools.call(name, arguments)
        assert len(evidence.statement) <= MOST_TEXT
        assert "\x1b" not in evidence.statement
        assert grounded(evidence.statement, [evidence])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vmcore.stack", {"pid": "144"}),
        ("vmcore.stack", {"pid": -1}),
        ("vmcore.stack", {"pid": 1, "path": "/etc/shadow"}),
        ("vmcore.lock", {"lock": "a; reboot"}),
        ("vmcore.struct", {"type": "task_struct", "address": "prog.main()"}),
        ("vmcore.struct", {"type": "int x; system", "address": "0x1"}),
        ("vmcore.variable", {"name": "__import__('os')"}),
        ("vmcore.python", {"code": "1"}),
        ("vmcore.log", {"text": "x" * 101}),
    ],
)
def test_nothing_but_the_declared_questions_is_answered(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        _tools().call(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vmcore.lock", {"lock": "no_such_lock"}),
        ("vmcore.stack", {"pid": 99}),
        ("vmcore.struct", {"type": "task_struct", "address": "0xffff888100010000"}),
        ("vmcore.variable", {"name": "jiffies"}),
    ],
)
def test_what_only_a_missing_dump_knows_is_refused_in_a_sentence(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        _tools().call(name, arguments)


def test_calls_count_against_the_budget() -> None:
    tools = _tools(calls=1)
    tools.call("vmcore.stack", {"pid": 143})
    with pytest.raises(RefusedError, match="budget"):
        tools.call("vmcore.stack", {"pid": 144})


def test_a_name_of_the_host_cannot_choose_what_the_operator_pastes() -> None:
    path = "/var/crash/a b; reboot/vmcore"
    (evidence,) = _tools(crashes.after(observations.healthy(), crashes.deadlock(path))).call(
        "vmcore.log", {"text": "$(reboot) x"}
    )
    assert shlex.split(evidence.reproduce) == ["diagnose", "vmcore", "show", path, "--log", "$(reboot) x"]


def test_locks_of_a_log_are_numbered_and_their_numbers_are_not_told_as_addresses() -> None:
    tools = _tools(crashes.after(observations.healthy(), crashes.logged_deadlock()))
    (evidence,) = tools.call("vmcore.lock", {"lock": "0x1"})
    assert evidence.statement.startswith("a mutex: held by")
