"""Tools are typed, bounded, read-only, and their wrappers filter, count, clean and tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.context import open_tools
from agents.events import RoundEvent, nobody
from agents.tools import log, metric, topology
from agents.tools.base import Budgeted, CaseTools, Only, RefusedError, plain
from rca.case import Case
from rca.faults import all_models
from rca.ground import grounded
from rca.view import View
from tests.agents import observations
from wardround.models.observation import Observation
from wardround.settings import Budget

FOLLOW_UPS = {tool.name: tool for tool in (*metric.TOOLS, *log.TOOLS, *topology.TOOLS)}


def _case(observation: Observation | None = None) -> Case:
    return Case(View(observation or observations.throttled_and_lied_about()), all_models())


def _tools(case: Case) -> CaseTools:
    return CaseTools(case, FOLLOW_UPS)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("metric.series", {"name": "linux.cgroup.cpu.throttled_periods", "labels": {}}, "mean 8"),
        ("metric.series", {"name": "system.memory.usage", "labels": {"state": "free"}}, "1.074e+10"),
        ("log.search", {"text": "LOGIN", "severity": "err"}, "1 log lines hold 'LOGIN', 1 of them in the window"),
        ("log.search", {"text": "nothing like it"}, "0 log lines"),
        ("topology.show_process", {"pid": observations.ENGINE_PID}, "40 of 1024 files open"),
        ("topology.neighbours", {"entity": str(observations.ENGINE_PID)}, f"cgroup {observations.GROUP}"),
        ("topology.neighbours", {"entity": observations.GROUP}, "process llama-server (pid 4121)"),
    ],
)
def test_a_follow_up_answers_with_grounded_evidence(name: str, arguments: dict[str, Any], told: str) -> None:
    (evidence,) = _tools(_case()).call(name, arguments)
    assert told in evidence.statement
    assert evidence.reproduce
    if evidence.trust != "text":
        assert grounded(evidence.statement, [evidence])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("metric.series", {"name": "no.such.metric"}),
        ("topology.show_process", {"pid": 999_999}),
        ("topology.neighbours", {"entity": "nothing"}),
    ],
)
def test_what_is_not_there_is_answered_with_nothing(name: str, arguments: dict[str, Any]) -> None:
    assert _tools(_case()).call(name, arguments) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shell.run", {"command": "id"}),
        ("metric.series", {"name": "system.cpu.time", "window": 5}),
        ("metric.series", {"name": "x" * 101}),
        ("log.search", {"text": "x" * 101}),
        ("log.search", {"text": ""}),
        ("log.search", {}),
        ("topology.show_process", {"pid": "1; reboot"}),
        ("topology.show_process", {"pid": -1}),
        ("topology.show_process", {"pid": 2**40}),
    ],
)
def test_a_wrong_call_is_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        _tools(_case()).call(name, arguments)


def test_a_search_is_for_the_text_itself_not_a_pattern() -> None:
    assert _tools(_case()).call("log.search", {"text": "GET .*"})[0].values["lines"] == 0


def test_a_specialist_has_its_own_tools_only() -> None:
    only = Only(_tools(_case()), "metric")
    assert set(only.tools()) == {"metric.series"}
    with pytest.raises(RefusedError):
        only.call("log.search", {"text": "error"})


def test_a_spent_budget_refuses() -> None:
    tools = Budgeted(_tools(_case()), 1)
    tools.call("log.search", {"text": "error"})
    with pytest.raises(RefusedError, match="budget"):
        tools.call("log.search", {"text": "error"})


def test_evidence_is_cleaned_where_the_case_keeps_it_too() -> None:
    case = _case()
    tools = open_tools(case, Budget(), nobody)
    (found,) = tools.call("log.search", {"text": "worker started"})
    assert "hunter2" not in found.statement
    assert case.evidence[found.id] == found


def test_a_listener_hears_of_every_call() -> None:
    heard: list[RoundEvent] = []
    open_tools(_case(), Budget(), heard.append).call("log.search", {"text": "worker"})
    assert [event.name for event in heard] == ["tool.started", "tool.finished", "evidence.added"]


def test_questions_of_unknown_suspects_are_passed_over() -> None:
    tools = open_tools(_case(), Budget(), nobody)
    assert tools.call("metric.cpu", {"candidates": ["cpu.saturation|process|nobody|1"]}) == []


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\x00b", "a\u202eb", "a\u200bb", "a\nb"])
def test_what_a_terminal_or_reader_would_obey_is_taken_out(text: str) -> None:
    assert plain(text).isprintable()


def test_a_flood_of_log_lines_gives_a_bounded_answer() -> None:
    base = observations.throttled_and_lied_about()
    flood = replace(base, logs=tuple(replace(base.logs[0], text="GET /" + "y" * 4000) for _ in range(3000)))
    (found,) = open_tools(_case(flood), Budget(), nobody).call("log.search", {"text": "GET /"})
    assert found.values["lines"] == 3000
    assert len(found.statement) <= 600
