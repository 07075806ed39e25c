"""The journal against a real journald in a mount namespace of its own, and hostile entries."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.journal import JournalCollector, parse
from wardround.models.series import Catalogue

JOURNALD = Path("/lib/systemd/systemd-journald")
SCRIPT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/log/journal /run/systemd/journal || exit 1
mount --bind "$1/journal" /run/log/journal && mount --bind "$1/id" /etc/machine-id || exit 1
{journald} & daemon=$!
while [ ! -S /run/systemd/journal/stdout ]; do sleep 0.05; done
say() {{ printf "$2\n" | systemd-cat -t shop -p "$1"; }}
say err 'before \033[31mred'
echo up; read go
say warning during
echo up; read go
kill $daemon; wait $daemon
"""


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or not JOURNALD.exists() or not shutil.which("journalctl"), reason="needs root and journald"
)
def test_entries_from_before_and_during_the_window_come_in_order(tmp_path):
    """What was logged before the start is there at once, what is logged later comes later, each once."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "id").write_text("0123456789abcdef0123456789abcdef\n")
    script = SCRIPT.format(journald=JOURNALD)
    child = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    collector = JournalCollector(Catalogue(), Roots(), (tmp_path / "journal",))

    def wait_for(text: str) -> list:
        found, deadline = [], time.monotonic() + 10
        while not any(text in r.text for r in found) and time.monotonic() < deadline:
            found += [r for r in collector.read(time.time(), time.monotonic()).logs if r.unit == "shop"]
            time.sleep(0.05)
        return found

    try:
        assert child.stdout.readline() == "up\n"
        assert collector.probe().available
        collector.start()
        [before] = wait_for("before")
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "up\n"
        [during] = wait_for("during")
    finally:
        collector.stop()
        child.communicate("\n", timeout=20)
    assert (before.severity, before.text) == ("err", "before red")
    assert (during.severity, during.source) == ("warning", "journal")
    assert before.time < during.time <= time.time() + 1


def test_without_data_it_says_so(tmp_path):
    """A host without journald: the reason, and reading it nonetheless brings nothing."""
    collector = JournalCollector(Catalogue(), Roots(), (tmp_path,))
    assert not collector.probe().available
    assert collector.read(1.0, 1.0).logs == ()


@pytest.mark.parametrize(
    "entry",
    [None, 3, [], {}, {"MESSAGE": None}, {"MESSAGE": "x"}, {"MESSAGE": [1, 999], "__REALTIME_TIMESTAMP": "1"},
     {"MESSAGE": "x", "__REALTIME_TIMESTAMP": {}},
     {"MESSAGE": "x", "_TRANSPORT": "kernel", "__REALTIME_TIMESTAMP": "1"}],
)  # fmt: skip
def test_odd_entries_are_skipped(entry):
    """Missing, foreign or kernel entries bring no record."""
    assert parse(json.dumps(entry).encode()) is None
    assert parse(b"{cut") is None


def test_binary_messages_and_odd_fields_are_shown_as_text():
    """journalctl prints what is not UTF-8 as a list of bytes, and repeated fields as lists."""
    entry = {
        "MESSAGE": [104, 105, 0, 27, 91, 109, 255],
        "__REALTIME_TIMESTAMP": "1700000000500000",
        "PRIORITY": ["3", "4"],
        "_PID": "12",
        "_SYSTEMD_UNIT": ["a", "b"],
        "_COMM": "shop",
    }
    record = parse(json.dumps(entry).encode())
    assert record is not None
    assert (record.text, record.time, record.severity) == ("hi\ufffd", 1700000000.5, "info")
    assert (record.unit, record.pid) == ("shop", 12)
