"""The newest crash of the last days is read beside the window; older ones are only told of."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.vmcore.past import PastCrashes
from tests.vmcore.conftest import Vmcores
from wardround.models.vmcore import PastCrash

LOGS = Path(__file__).parent / "logs"
CRASHED = 1_795_161_601.0 + 86401.12 - 1.270114  # by the clock of null_write_6.12.log
BOOTED = CRASHED + 120.0
LONG = 60.0


def _host(tmp_path: Path, booted: float = BOOTED) -> Roots:
    """A host of which only its boot time and its free memory are known."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text(f"cpu 1 2 3\nbtime {booted:.0f}\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    return Roots(proc=str(tmp_path / "proc"), sys=str(tmp_path / "sys"), var=str(tmp_path / "var"))


def _left(tmp_path: Path, source: Path, name: str, at: float = CRASHED) -> Path:
    """Leave a crash file as kdump does."""
    path = tmp_path / "var" / "crash" / "202611210800" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    os.utime(path, (at, at))
    return path


def _read(roots: Roots, now: float = BOOTED + 60.0, seconds: float = LONG) -> tuple[PastCrashes, tuple[PastCrash, ...]]:
    past = PastCrashes(roots, lambda: now)
    past.start(seconds)
    return past, past.finish(LONG)


def test_a_host_that_never_crashed_starts_no_reader_and_says_that_it_looked(tmp_path: Path) -> None:
    past, crashes = _read(_host(tmp_path))
    assert crashes == ()
    assert past.pids == set()
    assert (past.coverage().ran, past.coverage().skipped) == (("collectors.vmcore",), ())


def test_the_log_of_a_crash_is_read_and_its_own_clock_believed(tmp_path: Path) -> None:
    _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800", at=CRASHED + 40.0)
    _, (crash,) = _read(_host(tmp_path))
    assert crash.vmcore is not None
    assert crash.vmcore.panic is not None
    assert crash.vmcore.panic.kind == "null_pointer"
    assert crash.time == pytest.approx(CRASHED, abs=1.0)
    assert crash.why == ""


def test_an_old_crash_is_not_read_but_told_of(tmp_path: Path) -> None:
    path = _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800")
    past, (crash,) = _read(_host(tmp_path), now=CRASHED + 30 * 86400.0)
    assert crash.vmcore is None
    (note,) = past.coverage().skipped
    assert "older than 3 days" in note.reason
    assert note.enable == f"diagnose vmcore {path}"


def test_an_old_crash_whose_files_were_copied_lately_is_old(tmp_path: Path) -> None:
    later = CRASHED + 30 * 86400.0
    _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800", at=later)
    past, (crash,) = _read(_host(tmp_path), now=later)
    assert crash.vmcore is None
    assert crash.time == pytest.approx(CRASHED, abs=1.0)
    assert "older than 3 days" in past.coverage().skipped[0].reason


def test_the_settings_may_ask_not_to_look(tmp_path: Path) -> None:
    _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800")
    roots = _host(tmp_path)
    past, crashes = _read(Roots(proc=roots.proc, sys=roots.sys, var=roots.var, crash_days=0.0))
    assert (crashes, past.coverage().ran) == ((), ())


def test_records_moved_after_the_reboot_are_of_the_boot_before(tmp_path: Path) -> None:
    text = [line for line in (LOGS / "null_write_6.12.log").read_text().splitlines() if "system clock" not in line]
    source = tmp_path / "record"
    source.write_text("\n".join(text))
    _left(tmp_path, source, "dmesg-ramoops-0", at=BOOTED + 20.0)
    _, (crash,) = _read(_host(tmp_path))
    assert crash.vmcore is not None
    assert crash.time == pytest.approx(BOOTED, abs=1.0)


def test_a_log_without_a_crash_is_none(tmp_path: Path) -> None:
    source = tmp_path / "quiet"
    source.write_text("[    0.000000] Linux version 6.12.94-amd64\n[    5.0] systemd[1]: Shutting down.\n")
    _left(tmp_path, source, "dmesg.202611210800")
    past, (crash,) = _read(_host(tmp_path))
    assert crash.vmcore is None
    assert "holds no report of a crash" in past.coverage().skipped[0].reason


def test_a_dump_that_cannot_be_read_leaves_what_its_log_told(tmp_path: Path) -> None:
    _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800")
    junk = tmp_path / "junk"
    junk.write_bytes(b"\x7fELF" + bytes(range(256)) * 64)
    _left(tmp_path, junk, "dump.202611210800")
    _, (crash,) = _read(_host(tmp_path))
    assert crash.vmcore is not None
    assert crash.vmcore.header.tier == "log"
    assert crash.why.startswith("only its log was read: ")


def test_where_memory_is_short_no_dump_is_opened(tmp_path: Path) -> None:
    roots = _host(tmp_path)
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 1000 kB\n")
    _left(tmp_path, LOGS / "null_write_6.12.log", "vmcore")
    past, (crash,) = _read(roots)
    assert crash.vmcore is None
    assert "too little memory" in crash.why
    assert past.pids == set()


def test_a_window_too_short_reads_the_log_alone(tmp_path: Path) -> None:
    _left(tmp_path, LOGS / "null_write_6.12.log", "dmesg.202611210800")
    _left(tmp_path, LOGS / "null_write_6.12.log", "dump.202611210800")
    past, (crash,) = _read(_host(tmp_path), seconds=0.0)
    assert crash.vmcore is not None
    assert "too short" in crash.why
    assert past.pids == set()


def test_the_report_is_not_held_up_by_a_reader_that_does_not_end(tmp_path: Path) -> None:
    """A named pipe in place of the log: opening it would wait for ever, so it is not taken for a file."""
    fifo = tmp_path / "var" / "crash" / "a" / "vmcore-dmesg.txt"
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    began = time.monotonic()
    _, crashes = _read(_host(tmp_path))
    assert crashes == ()
    assert time.monotonic() - began < LONG


def test_a_real_dump_is_read_in_full_by_a_reader_of_its_own(tmp_path: Path, vmcores: Vmcores) -> None:
    dump = vmcores.get("abba", "6.12")
    folder = tmp_path / "var" / "crash" / "202611210800"
    folder.mkdir(parents=True)
    os.link(dump.path, folder / "vmcore") if _same_device(dump.path, folder) else shutil.copyfile(
        dump.path, folder / "vmcore"
    )
    past, (crash,) = _read(_host(tmp_path), now=time.time())
    assert crash.vmcore is not None
    assert crash.vmcore.header.tier == "dump"
    assert crash.vmcore.cycles
    assert past.pids
    assert all(crash.vmcore.task(task) for task in crash.vmcore.cycles[0].tasks)


def _same_device(a: Path, b: Path) -> bool:
    return a.stat().st_dev == b.stat().st_dev
