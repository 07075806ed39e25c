"""The entry point: a light start, exit codes, and every failure told in a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cli.main
from wardround.errors import UpstreamError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "numpy", "pydantic", "langgraph", "langchain_core", "langchain_openai", "pyarrow", "sqlalchemy", "jinja2", "rich",
    "structlog", "httpx", "drain3", "agents.round", "rca.case", "detectors.scan", "collectors.observe",
}  # fmt: skip
COMMANDS = [[], ["watch"], ["record"], ["replay"], ["doctor"], ["schema"], ["config"], ["config", "show"]]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder and an environment of its own, so that no setting of this machine plays a part."""
    for name in [name for name in os.environ if name.startswith("WARDROUND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WARDROUND_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("WARDROUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TERM", "dumb")
    return tmp_path


def run(place: Path, *words: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=90, **more)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_loads_nothing_heavy(place, command):
    code = (
        "import sys, cli.main\n"
        f"code = cli.main.main({[*command, '--help']!r})\n"
        "print('\\n'.join(['MODULES', *sys.modules]))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
    shown, modules = done.stdout.split("MODULES\n")
    assert "Usage: diagnose" in shown
    allowed = {"pydantic"} if command else set()  # typer itself checks the options before a subcommand with it
    assert not (HEAVY - allowed) & set(modules.split())


def test_version(place):
    done = run(place, "--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "wardround", "")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["-o", "xml"], "xml"),
        (["--window", "soon"], "--window"),
        (["--window", "0.5"], "window"),
        (["--window", "nan"], "window"),
        (["--since", "yesterday"], "yesterday"),
        (["--since", "2999-01-01T00:00:00Z"], "future"),
        (["--pid", "0"], "--pid"),
        (["--pid", "4194999"], "4194999"),
        (["--cgroup", "/no/such/group"], "/no/such/group"),
        (["--fail-on", "never"], "never"),
        (["--html", "/no/such/folder/page.html"], "/no/such/folder"),
        (["replay", "/no/such/file"], "/no/such/file"),
        (["replay"], "file"),
        (["record", "/no/such/folder/x"], "/no/such/folder"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_a_sentence_that_names_it_and_exit_code_2(place, words, part):
    done = run(place, *words)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_with_json_output_an_error_is_an_object_too(place):
    for words in (["-o", "json", "--window", "0.5"], ["replay", "/no/such/file", "--output=json"], ["-ojson", "--bad"]):
        done = run(place, *words)
        body = json.loads(done.stdout)
        assert (done.returncode, body["status"], body["error"]["exit_code"]) == (2, "error", 2)
        assert body["error"]["what"] in done.stderr


def test_a_wrong_setting_names_where_it_is_written(place):
    (place / "wardround.toml").write_text("windo = 3\n")
    done = run(place, "--window", "3")
    assert done.returncode == 2
    assert "windo" in done.stderr
    assert "./wardround.toml" in done.stderr


def failing(error: BaseException):
    def fail(*_: object, **__: object) -> int:
        raise error

    return fail


def test_a_bug_is_an_apology_without_traceback_and_debug_shows_it(monkeypatch, capsys):
    monkeypatch.setattr(cli.main.diagnose, "run", failing(ZeroDivisionError("division by zero")))
    assert cli.main.main([]) == 1
    shown = capsys.readouterr()
    assert "Sorry" in shown.err
    assert "--debug" in shown.err
    assert "Traceback" not in shown.err
    with pytest.raises(ZeroDivisionError):
        cli.main.main(["--debug"])


def test_an_upstream_failure_is_exit_code_1_and_an_interruption_130(monkeypatch, capsys):
    monkeypatch.setattr(cli.main.diagnose, "run", failing(UpstreamError("the engine is gone", "refused", "start it")))
    assert cli.main.main([]) == 1
    assert capsys.readouterr().err == "diagnose: the engine is gone\nrefused\nstart it\n"
    monkeypatch.setattr(cli.main.diagnose, "run", failing(KeyboardInterrupt()))
    assert cli.main.main([]) == 130


def test_schema_prints_the_published_schema(place):
    done = run(place, "schema")
    assert json.loads(done.stdout)["$id"] == "urn:wardround.diagnosis:v1"


def test_a_reader_that_leaves_early_is_no_traceback(place):
    command = f"{sys.executable} -m cli.main schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_a_standard_output_that_is_full_is_a_sentence(place):
    command = f"{sys.executable} -m cli.main schema > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {143}), (signal.SIGINT, {0, 130})])
def test_a_signal_in_the_window_ends_it_in_order(place, number, codes):
    command = [sys.executable, "-m", "cli.main", "--window", "60", "-o", "json"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode in codes
    assert "Traceback" not in err
    if process.returncode == 0:
        assert json.loads(out)["window"]["seconds"] < 60
