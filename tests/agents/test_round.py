"""A whole round over observations whose answer is known."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from agents.events import RoundEvent
from agents.round import run_round, unfinished
from agents.specialists import SPECIALISTS
from tests.agents import observations
from tests.agents.observations import without_run
from wardround.ids import new_id
from wardround.models.diagnosis import Diagnosis
from wardround.models.document import to_document
from wardround.settings import Budget, Settings


def test_a_throttled_cgroup_is_found_with_evidence_action_and_cost(settings: Settings) -> None:
    diagnosis = run_round(observations.throttled(), settings)
    first = diagnosis.hypotheses[0]
    assert (diagnosis.status, first.fault, first.culprit.name) == ("problem", "cpu.throttling", observations.GROUP)
    assert first.verdict == "confirmed"
    known = {evidence.id: evidence for evidence in diagnosis.evidence}
    assert all(number in known for number in (*first.supporting, *first.contradicting))
    assert any(known[number].values.get("throttled_ratio") == 0.8 for number in first.supporting)
    assert [a.action for a in diagnosis.actions if a.treats == first.id] == ["cgroup.set_cpu_quota"]
    assert "agents.metric" in diagnosis.coverage.ran
    assert diagnosis.usage.tool_calls > 0
    assert diagnosis.usage.model_calls == 0


def test_a_healthy_host_is_said_to_be_so(settings: Settings) -> None:
    diagnosis = run_round(observations.healthy(), settings)
    assert (diagnosis.status, diagnosis.severity, diagnosis.incident_id) == ("ok", "none", "")
    assert not [h for h in diagnosis.hypotheses if h.probability >= 0.5]
    assert not diagnosis.actions


def test_without_a_model_the_report_says_who_judged(settings: Settings) -> None:
    verification = run_round(observations.throttled(), settings).verification
    assert verification.status == "unverified"
    assert "no language model is configured" in verification.note
    assert [vote.by for vote in verification.votes] == ["rules"]


def test_every_specialist_ran_or_is_said_not_to_have(settings: Settings) -> None:
    coverage = run_round(observations.throttled(), settings).coverage
    told = {*coverage.ran, *(skipped.name for skipped in coverage.skipped)}
    assert {f"agents.{name}" for name in SPECIALISTS if name != "vmcore"} <= told
    assert "agents.vmcore" not in told  # a host without a crash has nothing for it


def test_the_same_round_over_the_same_observation_is_the_same_to_the_identifier(settings: Settings) -> None:
    run_id = new_id("run")
    first, second = (run_round(observations.throttled(), settings, run_id=run_id) for _ in range(2))
    assert without_run(first) == without_run(second)


def test_the_document_of_a_round_is_valid(settings: Settings) -> None:
    document = to_document(run_round(observations.throttled(), settings))
    assert document.hypotheses[0].fault == "cpu.throttling"
    assert document.run_id.startswith("run_")


def test_events_tell_the_round_in_order(settings: Settings) -> None:
    events: list[RoundEvent] = []
    run_round(observations.throttled(), settings, on_event=events.append)
    names = [event.name for event in events]
    assert names[0] == "run.started"
    assert names[-1] == "run.finished"
    assert {"step.started", "tool.started", "tool.finished", "evidence.added", "hypothesis.updated"} <= set(names)
    assert all(event.data["run_id"] for event in events if event.name.startswith(("run.", "step.", "hyp")))


@pytest.mark.parametrize("budget", [Budget(tool_calls=1), Budget(seconds=1e-6)])
def test_a_spent_budget_forces_a_conclusion_that_says_so(settings: Settings, budget: Budget) -> None:
    tight = settings.model_copy(update={"budget": budget})
    diagnosis = run_round(observations.throttled(), tight)
    assert "the conclusion is forced" in diagnosis.verification.note
    assert diagnosis.usage.tool_calls <= budget.tool_calls


def test_nothing_of_a_finished_round_stays_and_what_stays_is_private(settings: Settings) -> None:
    run_round(observations.throttled(), settings)
    assert unfinished(settings.state_dir) == ()
    assert list((settings.state_dir / "rounds").iterdir()) == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in settings.state_dir.rglob("*") if path.is_file()}
    assert all(mode == 0o600 for mode in modes.values()), modes


def test_the_diagnosis_is_kept_before_the_round_counts_as_finished(settings: Settings) -> None:
    seen: list[bool] = []

    def keep(diagnosis: Diagnosis) -> None:
        seen.append((settings.state_dir / "rounds" / f"{diagnosis.run_id}.wardround").exists())

    run_round(observations.throttled(), settings, keep=keep)
    assert seen == [True]


def _same_finding(diagnosis: Diagnosis) -> None:
    assert diagnosis.hypotheses[0].fault == "cpu.throttling"
    skipped = {each.name for each in diagnosis.coverage.skipped}
    assert skipped & {"agents.checkpoints", "agents.resume"}


def test_a_state_folder_that_cannot_be_made_costs_a_note_and_no_diagnosis(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _same_finding(
        run_round(observations.throttled(), settings.model_copy(update={"state_dir": tmp_path / "file" / "s"}))
    )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
@pytest.mark.parametrize("options", ["size=64k", "size=16m,ro"])
def test_a_full_or_read_only_state_folder_costs_a_note_and_no_diagnosis(
    settings: Settings, tmp_path: Path, options: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], check=True)
    try:
        if "ro" not in options:
            (small / "filler").write_bytes(b"x" * 60 * 1024)
        _same_finding(run_round(observations.throttled(), settings.model_copy(update={"state_dir": small})))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_fills_in_the_middle_costs_a_note_and_no_diagnosis(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    plain = SqliteSaver.put

    def put(saver: SqliteSaver, *args: Any, **kwargs: Any) -> Any:
        nonlocal written
        written += 1
        if written > 4:
            raise sqlite3.OperationalError("database or disk is full")
        return plain(saver, *args, **kwargs)

    monkeypatch.setattr(SqliteSaver, "put", put)
    _same_finding(run_round(observations.throttled(), settings))
    assert written > 4


def test_a_damaged_checkpoint_file_is_replaced(settings: Settings) -> None:
    settings.state_dir.mkdir()
    (settings.state_dir / "checkpoints.sqlite").write_bytes(b"this is no database at all" * 500)
    diagnosis = run_round(observations.throttled(), settings)
    assert diagnosis.hypotheses[0].fault == "cpu.throttling"
    assert "agents.checkpoints" not in {each.name for each in diagnosis.coverage.skipped}


def test_a_fault_model_that_breaks_leaves_the_others_standing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents import round as rounds
    from rca.faults import all_models

    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    models = list(all_models())
    models[0] = replace(models[0], suspects=broken)  # type: ignore[arg-type]
    place = next(n for n, model in enumerate(models) if model.fault == "cpu.throttling")
    first, *others = models[place].features
    spoiled = [replace(f, measure=broken) if f.name == "quota_used" else f for f in others]
    models[place] = replace(models[place], features=(first, *spoiled))
    monkeypatch.setattr(rounds, "all_models", lambda: tuple(models))
    diagnosis = run_round(observations.throttled(), settings)
    assert diagnosis.hypotheses[0].fault == "cpu.throttling"
    skipped = {each.name: each.reason for each in diagnosis.coverage.skipped}
    assert "planted" in skipped[f"rca.{models[0].fault}"]
    assert "planted" in skipped["rca.cpu.throttling.quota_used"]


def test_no_environment_variable_sends_the_round_to_a_tracing_service(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hits.append(self.path)
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGCHAIN_TRACING_V2", "true")
        monkeypatch.setenv("LANGSMITH_API_KEY", "key")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        run_round(observations.throttled(), settings)
        server.shutdown()
        thread.join()
    assert hits == []
