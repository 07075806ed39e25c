"""The store on real SQLite files: incidents with their history, runs with their documents, and files that fail."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace

import pytest

from tests.cli import samples
from wardround.errors import StateError, UserError
from wardround.models.document import to_document
from wardround.store.history import save_run
from wardround.store.repositories import Incidents, Runs
from wardround.store.session import FILE, open_store


def test_a_stored_run_comes_back_as_the_same_document(tmp_path):
    document = to_document(samples.problem())
    save_run(tmp_path, document)
    with open_store(tmp_path) as session:
        assert Runs(session).get(document.run_id) == document
        assert Runs(session).recent() == [document]
        assert Runs(session).get("run_unknown") is None


def test_storing_a_problem_opens_an_incident_and_logs_every_step(tmp_path):
    document = to_document(samples.problem())
    save_run(tmp_path, document)
    with open_store(tmp_path) as session:
        incident = Incidents(session).get(document.incident_id)
        assert (incident.state, incident.fault, incident.culprit) == ("diagnosed", "cpu.throttling", "/shop/api")
        steps = [(event.before, event.after) for event in Incidents(session).events(incident.id)]
    assert steps == [(None, "open"), ("open", "investigating"), ("investigating", "diagnosed")]


def test_a_healthy_run_has_no_incident(tmp_path):
    save_run(tmp_path, to_document(samples.healthy()))
    with open_store(tmp_path) as session:
        assert Incidents(session).recent() == []
        assert Runs(session).count() == 1


def test_storing_the_same_run_again_replaces_it(tmp_path):
    for summary in ("first", "second"):
        save_run(tmp_path, to_document(replace(samples.problem(), summary=summary)))
    with open_store(tmp_path) as session:
        assert [run.summary for run in Runs(session).recent()] == ["second"]


def test_an_illegal_change_is_refused_and_nothing_is_written(tmp_path):
    with open_store(tmp_path) as session:
        incident = Incidents(session).open("host", at=1.0, by="test")

    def skip_ahead():
        with open_store(tmp_path) as session:
            Incidents(session).move(incident.id, "investigating", at=2.0, by="test")
            Incidents(session).move(incident.id, "resolved", at=3.0, by="test")

    with pytest.raises(UserError):
        skip_ahead()
    with open_store(tmp_path) as session:
        assert Incidents(session).get(incident.id).state == "open"
        assert len(Incidents(session).events(incident.id)) == 1
        with pytest.raises(UserError, match="no incident"):
            Incidents(session).move("inc_unknown", "closed", at=1.0, by="test")


def test_a_corrupt_file_is_a_state_error_that_names_it(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database" * 400)
    with pytest.raises(StateError, match=FILE):
        save_run(tmp_path, to_document(samples.problem()))


def test_a_file_of_a_later_version_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateError, match="version 99"):
        save_run(tmp_path, to_document(samples.problem()))


def test_a_folder_that_cannot_be_made_is_a_state_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be made"):
        save_run(tmp_path / "file" / "state", to_document(samples.problem()))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem")
def test_a_full_disk_is_a_state_error_and_the_earlier_run_is_still_there(tmp_path):
    import subprocess

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(tmp_path)], check=True)
    try:
        first = to_document(samples.problem())
        save_run(tmp_path, first)
        large = to_document(replace(samples.healthy(), summary="x" * 2_000_000))
        with pytest.raises(StateError):
            save_run(tmp_path, large)
        with open_store(tmp_path) as session:
            assert Runs(session).get(first.run_id) == first
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
