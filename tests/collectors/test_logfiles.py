"""Log files against real files that are written, rotated, truncated, and hostile."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from collectors.base import Roots
from collectors.logfiles import LogfilesCollector, Tail, held_logs
from collectors.logline import parse, severity
from wardround.models.series import Catalogue
from wardround.text import CUT, LIMIT

NOW = time.mktime((2026, 11, 22, 16, 30, 0, 0, 0, -1))


@pytest.fixture
def log(tmp_path):
    return tmp_path / "app.log"


@pytest.fixture
def collector(log):
    made = LogfilesCollector(Catalogue(), Roots(log_files=(log,)))
    yield made
    made.stop()


def texts(collector: LogfilesCollector, log) -> list[str]:
    return [r.text for r in collector.read(time.time(), time.monotonic()).logs if r.source == str(log)]


def test_what_was_there_comes_first_then_what_is_added(log, collector):
    """A line is told once it is complete."""
    log.write_text("old\n")
    assert texts(collector, log) == ["old"]
    with log.open("a") as out:
        out.write("new\nhal")
        out.flush()
        assert texts(collector, log) == ["new"]
        out.write("f\n")
        out.flush()
        assert texts(collector, log) == ["half"]
    assert texts(collector, log) == []


def test_of_a_large_file_only_the_end_is_read(log, collector):
    """256 KiB before the window, from the first whole line on."""
    log.write_text("".join(f"line {number:06}\n" for number in range(100_000)))
    seen = texts(collector, log)
    assert seen[-1] == "line 099999"
    assert len(seen) == (256 << 10) // 12
    assert all(len(text) == 11 for text in seen)


def test_rotation_and_truncation_lose_nothing(log, collector):
    """Moved away and made anew; emptied in place."""
    log.write_text("one\n")
    assert texts(collector, log) == ["one"]
    with log.open("a") as out:
        out.write("two\n")
    log.rename(log.with_suffix(".1"))
    log.write_text("three\n")
    assert texts(collector, log) + texts(collector, log) == ["two", "three"]
    with log.open("w") as out:
        out.write("4\n")
    assert texts(collector, log) == ["4"]
    log.unlink()
    assert texts(collector, log) == []


def test_hostile_lines_are_bounded_and_clean(log, collector):
    """A megabyte without a line end, NUL bytes, control sequences, bytes that are no UTF-8."""
    log.write_bytes(b"start\n")
    texts(collector, log)
    with log.open("ab") as out:
        out.write(b"x" * (3 << 20) + b"\na\x00b \x1b[2J\xff\xfe \xe2\x80\xaec\n")
    seen: list[str] = []
    for _ in range(5):
        seen += texts(collector, log)
    assert len(seen) == 2
    assert len(seen[0]) == LIMIT
    assert seen[0].endswith(CUT)
    assert seen[1] == "ab \ufffd\ufffd c"


def test_a_file_that_a_process_logs_to_is_found_with_its_writer(tmp_path):
    """Its standard output goes to a file: that is its log."""
    path = tmp_path / "server.log"
    with path.open("wb") as out:
        code = "import time; print('ERROR no route', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=out)
    try:
        deadline = time.monotonic() + 10
        while not path.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held_logs(Roots(), 5.0)[str(path)].pid == child.pid
        collector = LogfilesCollector(Catalogue(), Roots())
        [record] = [r for r in collector.read(time.time(), 0.0).logs if r.source == str(path)]
        collector.stop()
    finally:
        child.kill()
        child.wait()
    assert (record.text, record.severity, record.pid) == ("ERROR no route", "err", child.pid)


def test_reading_leaves_the_access_time_alone(log):
    """Nothing of the host changes, not even that."""
    log.write_text("line\n")
    os.utime(log, (1, 1))
    Tail(str(log)).lines()
    assert log.stat().st_atime == 1


def test_what_is_no_text_file_is_refused(tmp_path):
    """A folder, a fifo and a missing file raise OSError and nothing else."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "none"):
        with pytest.raises(OSError, match=r"tmp|regular|test"):
            Tail(str(path))


@pytest.mark.parametrize(
    ("line", "age", "unit", "pid", "text"),
    [
        (b"Nov 22 16:29:00 host sshd[42]: Failed login", 60, "sshd", 42, "Failed login"),
        (b"2026-11-22 16:29:30,500 ERROR db gone", 29.5, "app", 7, "2026-11-22 16:29:30,500 ERROR db gone"),
        (b"[2026/11/22 16:29:30] x", 30, "app", 7, "[2026/11/22 16:29:30] x"),
        (b"no time", 0, "app", 7, "no time"),
        (b"Nov 31 99:99:99 host x: y", 0, "x", None, "y"),
        (b"2031-01-01 00:00:00 ahead", 0, "app", 7, "2031-01-01 00:00:00 ahead"),
    ],
)
def test_time_program_and_text_of_a_line(line, age, unit, pid, text):
    """What the line says of itself counts; nonsense is dated when it was read."""
    record = parse(line, "file", NOW, unit="app", pid=7)
    assert record.time == pytest.approx(NOW - age)
    assert (record.unit, record.pid, record.text) == (unit, pid, text)


def test_a_december_line_read_in_january_is_last_years():
    """Syslog's short form has no year."""
    january = time.mktime((2027, 1, 1, 0, 1, 0, 0, 0, -1))
    assert parse(b"Dec 31 23:59:00 host x: y", "file", january).time == pytest.approx(january - 120)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("all fine", "info"),
        ("level=warn disk slow", "warning"),
        ("java.io.IOException: x", "err"),
        ("kernel panic", "emerg"),
        ("FATAL: no", "crit"),
        ("terror in the title", "info"),
    ],
)
def test_words_tell_how_grave_a_line_is(text, level):
    """Whole words only."""
    assert severity(text) == level
