"""The watch daemon, run as the real process it is."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collectors.lock import NAME, hold, holder
from wardround.errors import StateError, UserError

ROOT = Path(__file__).parents[2]
HEAVY = (
    "langgraph",
    "langchain_core",
    "pyarrow",
    "pandas",
    "sklearn",
    "chromadb",
    "sqlalchemy",
    "httpx",
    "jinja2",
    "bcc",
)
RUN = """
import json, sys
from cli.main import main
code = main(["watch", *sys.argv[1:]])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def start(state: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        env={**os.environ, "WARDROUND_STATE_DIR": str(state), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=60)
    finally:
        process.kill()


def datagrams(inbox: socket.socket, until: str) -> list[str]:
    lines: list[str] = []
    while until not in lines:
        lines += inbox.recv(4096).decode().splitlines()
    return lines


def test_one_tick_tells_what_was_read(tmp_path):
    out, err = finish(start(tmp_path, "--once"))
    assert out.startswith("1 ticks ("), err
    assert re.search(r"[1-9]\d* series.*, history kept", out)


def test_it_tells_systemd_stops_on_sigterm_and_keeps_what_it_gathered(tmp_path):
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.settimeout(30)
    inbox.bind(str(tmp_path / "notify"))
    state = tmp_path / "state"
    process = start(
        state,
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="1000000",
        WARDROUND_HISTORY__STEP="1",
    )
    try:
        datagrams(inbox, "READY=1")
        assert holder(state) == process.pid
        assert datagrams(inbox, "WATCHDOG=1")
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        datagrams(inbox, "STOPPING=1")
        out, err = finish(process)
    finally:
        process.kill()
        inbox.close()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert holder(state) is None
    assert len(list((state / "history").glob("*.parquet"))) == 1, out
    heavy = {name.partition(".")[0] for name in json.loads(out.splitlines()[-1])} & set(HEAVY)
    assert not heavy


def test_a_second_one_says_who_runs(tmp_path):
    with hold(tmp_path):
        _, err = finish(start(tmp_path, "--once"))
    assert f"already runs here as process {os.getpid()}" in err


def test_a_state_folder_that_cannot_be_written_is_told_and_watching_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    out, err = finish(start(tmp_path / "file", "--once"))
    assert "history not written: " in out
    assert "watching_without_history" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("setup", ["missing", "stale", "junk"])
def test_a_lock_nobody_holds_has_no_holder(tmp_path, setup):
    if setup == "stale":
        with hold(tmp_path):
            pass
    elif setup == "junk":
        (tmp_path / NAME).write_bytes(b"\xff\x00")
    assert holder(tmp_path) is None


def test_a_lock_is_exclusive_and_ends_with_its_block(tmp_path):
    with hold(tmp_path):
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(UserError, match=str(os.getpid())), hold(tmp_path):
            pass
    with hold(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError), hold(tmp_path / "file"):
        pass


def test_the_unit_starts_a_command_that_exists_and_names_only_known_settings():
    from wardround.settings import Settings

    unit = (ROOT / "deploy/systemd/wardround-watch.service").read_text()
    assert "diagnose watch" in unit
    for word in unit.split():
        if "WARDROUND_" in word and "=" in word and "…" not in word:
            name = word.removeprefix("Environment=").partition("=")[0].removeprefix("WARDROUND_").lower()
            assert name in Settings.model_fields
