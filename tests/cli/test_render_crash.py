"""The report of a crash speaks of a crash, not of a window; a host's last crash stands behind what is wrong now."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from agents.crash import diagnose_crash
from agents.round import run_round
from cli.render import words
from cli.render.html import render_html
from cli.render.markdown import render_markdown
from cli.render.terminal import print_report
from tests.agents import crashes, observations
from wardround.models.document import Document, to_document
from wardround.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path)


def _printed(document: Document, **options: bool) -> str:
    out = io.StringIO()
    print_report(document, console=Console(file=out, width=80, color_system=None), **options)
    return out.getvalue()


def test_a_crash_is_told_by_when_it_stopped_and_what_it_was_read_from(settings) -> None:
    text = _printed(to_document(diagnose_crash(crashes.deadlock(), settings, 1.0)))
    head = text.splitlines()[0]
    assert head.startswith("infer-07 · crashed 2026-")
    assert "after 5 min of uptime" in head
    assert "kernel 6.18" in text.splitlines()[1]
    assert "the dump alone: /var/crash/1/vmcore" in text
    assert "window" not in text
    assert "Last crash" not in text


def test_the_telling_frames_and_the_lock_cycle_are_shown(settings) -> None:
    text = _printed(to_document(diagnose_crash(crashes.deadlock(), settings, 1.0)))
    section = text.split("The crash\n")[1]
    assert "waits for mutex index_lock, held by jt_compact" in " ".join(section.split())
    assert "jt_drop+0x10 [jtable]" in section
    assert "ret_from_fork" not in section


def test_the_onset_is_counted_back_from_the_crash(settings) -> None:
    document = to_document(diagnose_crash(crashes.null_write(), settings, 1.0))
    told = words.since(document.hypotheses[0], document)
    assert told.startswith("2026-11-21 ")
    assert told.endswith(("the moment of the crash", "before the crash"))


def test_a_log_without_a_crash_does_not_say_that_it_crashed(settings) -> None:
    quiet = replace(crashes.null_write(), panic=None, reports=(), tasks=())
    document = to_document(diagnose_crash(quiet, settings, 1.0))
    assert "crashed" not in words.subject(document)


@pytest.mark.parametrize("render", [_printed, render_markdown, render_html])
def test_a_hosts_last_crash_is_told_behind_what_is_wrong_now(settings, render) -> None:
    document = to_document(run_round(crashes.after(observations.throttled(), crashes.deadlock()), settings))
    text = " ".join(render(document).split())
    assert text.index("CPU") < text.index("Last crash")
    assert "index\\_lock" in text or "index_lock" in text
    assert "The crash: crashed 2026-" in text


def test_a_healthy_host_that_crashed_is_said_to_be_well_now(settings) -> None:
    text = _printed(to_document(run_round(crashes.after(observations.healthy(), crashes.deadlock()), settings)))
    assert "Nothing wrong was found now." in text
    assert "Last crash: root cause (confirmed" in text
    assert "and was rebooted since" in " ".join(text.split())
    assert "WARNING" in text.splitlines()[0]
    assert "11 s until" in text.splitlines()[0] or "10 s until" in text.splitlines()[0]


def test_control_sequences_of_a_task_name_reach_no_form_of_the_report(settings) -> None:
    vmcore = crashes.deadlock()
    evil = replace(vmcore.tasks[0], comm="a\x1b]0;x\x07<b>`|")
    document = to_document(diagnose_crash(replace(vmcore, tasks=(evil, vmcore.tasks[1])), settings, 1.0))
    for text in (_printed(document), render_markdown(document), render_html(document)):
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "<b>" not in render_html(document)


def test_a_crash_of_another_host_bears_its_name(settings) -> None:
    vmcore = crashes.deadlock()
    foreign = replace(vmcore, header=replace(vmcore.header, hostname="db-3"))
    text = _printed(to_document(run_round(crashes.after(observations.healthy(), foreign), settings)))
    assert "Crash of db-3: root cause (confirmed" in text
    assert "HEALTHY" in text.splitlines()[0]
