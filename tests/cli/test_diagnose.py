"""The whole command on this host: observe, judge, print, keep; record and replay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import pytest

from cli.diagnose import Request, conclude, finish_killed_rounds
from cli.output import View, emit
from cli.progress import Progress
from collectors import recording
from tests.cli import samples
from tests.cli.test_main import place, run  # noqa: F401 - the fixture
from wardround.ids import new_id
from wardround.models.document import schema, to_document
from wardround.settings import Settings
from wardround.store.repositories import Runs
from wardround.store.session import FILE, open_store


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording of this host, made by the command."""
    folder = tmp_path_factory.mktemp("recorded")
    environment = os.environ | {"WARDROUND_STATE_DIR": str(folder / "state"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "cli.main", "record", str(folder / "case"), "--window", "3"]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=90)
    return folder / "case"


def test_a_run_prints_a_valid_document_keeps_it_and_nothing_on_standard_error(place):  # noqa: F811
    done = run(place, "--window", "3", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema())
    assert {each["id"] for each in document["evidence"]} >= {
        number for each in document["hypotheses"] for number in each["supporting"]
    }
    with open_store(place / "state") as session:
        assert Runs(session).get(document["run_id"]).to_json() == done.stdout.strip()


def test_a_recording_replays_to_the_same_diagnosis(place, recorded):  # noqa: F811
    def without_identity(text: str) -> dict:
        document = json.loads(text)
        order = {each["id"]: f"ev_{n}" for n, each in enumerate(document["evidence"])}
        order |= {each["id"]: f"hyp_{n}" for n, each in enumerate(document["hypotheses"])}
        order |= {each["id"]: f"act_{n}" for n, each in enumerate(document["actions"])}
        plain = json.dumps({**document, "run_id": "", "incident_id": "", "usage": ""})
        for number, place_in_list in order.items():
            plain = plain.replace(number, place_in_list)
        return json.loads(plain)

    first, second = (run(place, "replay", str(recorded), "-o", "json") for _ in range(2))
    assert first.returncode == second.returncode == 0
    assert without_identity(first.stdout) == without_identity(second.stdout)


def test_saving_and_loading_does_not_change_the_diagnosis(recorded, tmp_path):
    observation = recording.load(recorded)
    recording.save(observation, tmp_path / "again")
    documents = [
        conclude(each, Settings(), Request(), Progress(False), durable=False)
        for each in (observation, recording.load(tmp_path / "again"))
    ]
    told = [[(h.fault, h.culprit, h.probability, h.verdict, h.headline) for h in d.hypotheses] for d in documents]
    assert told[0] == told[1]
    assert documents[0].summary == documents[1].summary


def test_a_replay_writes_the_page_and_markdown(place, recorded):  # noqa: F811
    done = run(place, "replay", str(recorded), "-o", "markdown", "--html", str(place / "page.html"))
    assert done.returncode == 0
    assert done.stdout.startswith("# ")
    assert "</html>" in (place / "page.html").read_text()


def test_a_focus_that_the_recording_never_saw_is_refused(place, recorded):  # noqa: F811
    done = run(place, "replay", str(recorded), "--pid", "4194999")
    assert done.returncode == 2
    assert "4194999" in done.stderr


def test_a_focus_is_told_in_the_summary(recorded):
    observation = recording.load(recorded)
    document = conclude(observation, Settings(), Request(pid=1), Progress(False), durable=False)
    if document.status == "problem":
        assert "(pid 1)" in document.summary


def test_a_store_that_cannot_be_used_is_said_and_the_answer_still_printed(place):  # noqa: F811
    (place / "state").mkdir()
    (place / "state" / FILE).write_bytes(b"no database" * 1000)
    done = run(place, "--window", "3", "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["run_id"].startswith("run_")
    assert "not stored" in done.stderr


def test_a_round_that_was_killed_is_finished_and_stored_and_a_damaged_one_dropped(recorded, tmp_path, capsys):
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    run_id = new_id("run")
    (rounds / f"{run_id}.wardround").write_bytes(recorded.read_bytes())
    (rounds / f"{new_id('run')}.wardround").write_bytes(b"cut off")
    finish_killed_rounds(Settings(state_dir=tmp_path))
    told = capsys.readouterr().err
    assert "was finished" in told
    assert "was dropped" in told
    assert list(rounds.iterdir()) == []
    with open_store(tmp_path) as session:
        assert [run.run_id for run in Runs(session).recent()] == [run_id]


def test_a_state_folder_that_is_a_file_is_said_and_the_answer_still_printed(place):  # noqa: F811
    (place / "state").write_text("")
    done = run(place, "--window", "3", "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["status"] in ("ok", "problem", "degraded")
    assert "Traceback" not in done.stderr


def test_a_time_limit_shortens_the_window_and_says_so(place):  # noqa: F811
    done = run(place, "--window", "60", "--timeout", "7", "-o", "json")
    assert "shortened" in done.stderr
    if done.returncode == 0:  # a host too busy to judge in the rest of the time says that instead
        assert json.loads(done.stdout)["window"]["seconds"] < 10
    else:
        assert "--timeout" in done.stderr


def test_ctrl_c_after_some_ticks_still_diagnoses_what_was_seen(place):  # noqa: F811
    command = [sys.executable, "-m", "cli.main", "--window", "120", "-o", "json"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(9)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["window"]["seconds"] < 60
    assert "interrupted: judging" in err


@pytest.mark.parametrize(
    ("level", "severity", "code"),
    [("warning", "critical", 3), ("critical", "critical", 3), ("critical", "warning", 0), (None, "critical", 0)],
)
def test_fail_on_turns_a_fault_of_that_severity_into_exit_code_3(level, severity, code, capsys):
    document = to_document(replace(samples.problem(), severity=severity))
    assert emit(document, View("json", fail_on=level)) == code
    assert json.loads(capsys.readouterr().out)["severity"] == severity


def test_fail_on_is_silent_about_a_healthy_host(capsys):
    assert emit(to_document(samples.healthy()), View("json", fail_on="warning")) == 0
