"""A host's last crash is told as what it is: over, before the reboot, beside what is wrong now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.round import run_round
from cli.focus import focused
from tests.agents import crashes, observations
from wardround.ids import new_id
from wardround.models.document import to_document
from wardround.models.vmcore import PastCrash
from wardround.settings import Settings


def test_a_healthy_host_that_crashed_before_is_a_warning_that_says_when(settings: Settings) -> None:
    diagnosis = run_round(crashes.after(observations.healthy(), crashes.null_write()), settings)
    assert (diagnosis.status, diagnosis.severity) == ("problem", "warning")
    first = diagnosis.hypotheses[0]
    assert (first.fault, first.culprit.name) == ("kernel.null_dereference", "zram2_submit_page")
    assert first.ended == crashes.CRASHED
    assert first.headline.startswith("The host crashed at 2026-")
    assert "was rebooted since" in first.headline
    assert "Now: Nothing wrong was found" in diagnosis.summary
    assert diagnosis.crash is not None
    assert {e.id for e in diagnosis.evidence} >= set(first.supporting)


def test_a_present_fault_stands_before_the_crash_and_keeps_its_severity(settings: Settings) -> None:
    alone = run_round(observations.throttled(), settings)
    both = run_round(crashes.after(observations.throttled(), crashes.deadlock()), settings)
    assert [h.fault for h in both.hypotheses[:2]] == ["cpu.throttling", "kernel.deadlock"]
    assert both.severity == max(alone.severity, "warning", key=["none", "info", "warning", "critical"].index)
    assert both.hypotheses[0].probability == alone.hypotheses[0].probability
    assert both.summary.startswith(alone.summary)
    assert "Before that: The host crashed at" in both.summary


def test_a_crash_that_was_not_read_changes_nothing(settings: Settings) -> None:
    run_id = new_id("run")
    healthy = observations.healthy()
    old = replace(healthy, crashes=(PastCrash(1.0, "/var/crash/1/vmcore", why="it is older than 3 days"),))
    first, second = (run_round(each, settings, run_id=run_id, durable=False) for each in (healthy, old))
    assert replace(first, usage=second.usage) == second


def test_a_dump_of_another_host_is_shown_and_does_not_make_this_one_a_problem(settings: Settings) -> None:
    foreign = crashes.deadlock()
    foreign = replace(foreign, header=replace(foreign.header, hostname="db-3.example.org"))
    diagnosis = run_round(crashes.after(observations.healthy(), foreign), settings)
    assert (diagnosis.status, diagnosis.severity, diagnosis.incident_id) == ("ok", "info", "")
    assert diagnosis.hypotheses[0].headline.startswith("Another host (db-3.example.org) crashed at")


@pytest.mark.parametrize("name", ["infer-07", "infer-07.example.org", "(none)", ""])
def test_the_same_host_is_known_by_its_short_name_or_by_none(settings: Settings, name: str) -> None:
    vmcore = crashes.deadlock()
    vmcore = replace(vmcore, header=replace(vmcore.header, hostname=name))
    assert run_round(crashes.after(observations.healthy(), vmcore), settings, durable=False).status == "problem"


def test_the_round_is_the_same_to_the_identifier_when_it_is_repeated(settings: Settings) -> None:
    run_id = new_id("run")
    observation = crashes.after(observations.healthy(), crashes.deadlock())
    first, second = (run_round(observation, settings, run_id=run_id) for _ in range(2))
    assert replace(first, usage=second.usage) == second


def test_the_document_tells_of_the_crash(settings: Settings) -> None:
    document = to_document(run_round(crashes.after(observations.healthy(), crashes.deadlock()), settings))
    assert document.about == "host"
    assert document.crash is not None
    assert document.crash.waits == [
        "jt_commit (pid 143) waits for mutex index_lock, held by jt_compact (pid 144)",
        "jt_compact (pid 144) waits for mutex journal_lock, held by jt_commit (pid 143)",
    ]
    assert [stack.frames for stack in document.crash.stacks] == [["jt_update+0x10 [jtable]"], ["jt_drop+0x10 [jtable]"]]
    assert document.hypotheses[0].ended == document.crash.time


def test_no_action_on_a_process_follows_from_a_process_id_of_another_boot(settings: Settings) -> None:
    hung = replace(crashes.deadlock(), cycles=(), locks=())
    here = replace(hung, tasks=tuple(replace(t, pid=observations.ENGINE_PID) for t in hung.tasks[:1]))
    diagnosis = run_round(crashes.after(observations.healthy(), here), settings)
    assert "kernel.hung_task" in [h.fault for h in diagnosis.hypotheses]
    assert all(action.action.startswith("host.") for action in diagnosis.actions)


def test_a_focus_on_a_process_does_not_catch_a_task_of_the_crash(settings: Settings) -> None:
    vmcore = crashes.deadlock()
    tasks = tuple(replace(task, pid=observations.ENGINE_PID) for task in vmcore.tasks)
    observation = crashes.after(observations.throttled(), replace(vmcore, tasks=tasks))
    diagnosis = focused(run_round(observation, settings), observation, observations.ENGINE_PID, None)
    assert diagnosis.hypotheses[0].fault == "cpu.throttling"
    assert "kernel.deadlock" not in diagnosis.summary
