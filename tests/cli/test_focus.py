"""A focus puts what can reach it first, leaves nothing out, and says so in the summary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.focus import cgroup_path, check_focus, focused
from cli.options import parse_since
from cli.window import _not_before
from tests.cli import samples
from tests.collectors.test_recording import observation
from wardround.errors import UserError
from wardround.models.diagnosis import Culprit
from wardround.models.records import LogRecord
from wardround.models.topology import Process

OWN = replace(samples.DISK, id="hyp_own", culprit=Culprit("process", "db", 7), headline="db (pid 7) waits.")
OTHER = replace(samples.THROTTLING, id="hyp_other", culprit=Culprit("process", "web", 9), headline="web (pid 9) burns.")


def seen():
    original = observation()
    web = Process(9, 1, "web", 6.0, "S", cgroups=(("", "/web"),))
    topology = replace(original.after, processes={**original.after.processes, 9: web})
    return replace(original, before=topology, after=topology)


def diagnosis(*hypotheses):
    return replace(samples.problem(), hypotheses=hypotheses, summary="web (pid 9) burns.")


@pytest.mark.parametrize(("pid", "cgroup", "name"), [(7, None, "db (pid 7)"), (None, "/db", "control group /db")])
def test_what_concerns_the_focus_comes_first_and_the_rest_stays(pid, cgroup, name):
    told = focused(diagnosis(OTHER, OWN), seen(), pid, cgroup)
    assert [each.id for each in told.hypotheses] == ["hyp_own", "hyp_other"]
    assert told.summary == f"Concerning {name}: db (pid 7) waits."


def test_a_focus_without_fault_says_so_and_tells_what_is_wrong_elsewhere():
    told = focused(diagnosis(OTHER), seen(), 7, None)
    assert told.summary == "Nothing wrong was found with db (pid 7); elsewhere on this host: web (pid 9) burns."
    assert told.hypotheses == (OTHER,)


def test_without_a_focus_nothing_changes():
    assert focused(diagnosis(OTHER, OWN), seen(), None, None) == diagnosis(OTHER, OWN)


def test_a_focus_that_was_never_seen_is_refused():
    for pid, cgroup in ((4242, None), (None, "/nope")):
        with pytest.raises(UserError):
            focused(diagnosis(OTHER), seen(), pid, cgroup)


def test_a_group_is_found_by_its_path_and_by_what_is_copied_from_its_mount(tmp_path):
    mount = tmp_path / "cgroup"
    (mount / "db").mkdir(parents=True)
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mounts").write_text(f"none {mount} cgroup2 rw 0 0\nnone / ext4 rw 0 0\nbroken\n")
    check_focus(None, "/db", proc)
    check_focus(None, "db", proc)
    with pytest.raises(UserError, match="no control group"):
        check_focus(None, "/other", proc)
    with pytest.raises(UserError, match="no process 1"):
        check_focus(1, None, proc)
    assert cgroup_path("db/") == "/db"


def test_since_leaves_older_logs_out():
    old, new = LogRecord(50.0, "kmsg", "old"), LogRecord(150.0, "kmsg", "new")
    kept = _not_before(replace(seen(), logs=(old, new), events=()), 100.0)
    assert kept.logs == (new,)


def test_since_reads_ages_and_times():
    assert parse_since("2026-01-01T00:00:00Z") == parse_since("2026-01-01T01:00:00+01:00") == 1767225600.0
    assert 0 < parse_since("1h") - parse_since("2h") - 3600 + 1 < 2
