"""Recordings: what is saved comes back, without secrets; what is foreign or damaged is refused in a sentence."""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import recording
from wardround.errors import StateError, UserError
from wardround.models.diagnosis import Coverage, Skipped
from wardround.models.observation import Observation
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Baseline, Series, Window
from wardround.models.topology import Cgroup, Engine, Host, Mount, Process, Thread, TopologySnapshot
from wardround.models.vmcore import DumpHeader, LogLine, Panic, PastCrash, StackFrame, Vmcore
from wardround.redaction import MASK

SECRET = "hunter2secret"


def observation() -> Observation:
    """A small hand-made observation with a secret in every place where host text goes."""
    process = Process(
        7,
        1,
        "db",
        5.0,
        "S",
        cmdline=f"db --password={SECRET}",
        cgroups=(("", "/db"),),
        threads=(Thread(7, "db", "S", 1.5, 3),),
    )
    before = TopologySnapshot(
        100.0,
        processes={7: process},
        cgroups={"/db": Cgroup("/db", 2, cpu_quota=0.5)},
        mounts=(Mount("/mnt", "//nas/x", "cifs", (f"password={SECRET}",), "0:9", "//nas/x"),),
        engines=(Engine("vllm", 7, f"http://bob:{SECRET}@127.0.0.1:8000", detail=f"token={SECRET}"),),
    )
    values = np.array([[1.0, np.nan], [2.0, 4.0], [4.0, 5.0]])
    series = (Series.of("linux.tasks.runnable"), Series.of("system.cpu.time", cpu="0", state="user"))
    return Observation(
        host=Host("h", "6.1", "b", 1.0, 2, 1 << 30, 4096, 100),
        window=Window(np.array([100.0, 101.0, 102.0]), np.array([5.0, 6.0, 7.0]), values, series),
        baseline=Baseline(np.array([1.0, np.nan]), np.array([0.1, np.nan]), np.array([9.0, 0.0]), "history"),
        before=before,
        after=replace(before, time=102.0),
        logs=(LogRecord(101.0, "kmsg", f"login TOKEN={SECRET}", "err", "db", 7),),
        events=(KernelEvent(101.5, "oom_kill", 7, "db", {"anon_rss_bytes": 5, "cgroup": "/db", "share": 0.5}),),
        coverage=Coverage(("collectors.psi",), (Skipped("collectors.nvml", "none"),)),
        own_pids=frozenset({1, 2}),
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "case.wardround"
    recording.save(observation(), path)
    return path


def altered(path, **members) -> None:
    """Rewrite an archive with some members replaced (None: left out)."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents.update({name.replace("_dot_", "."): data for name, data in members.items()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            if data is not None:
                archive.writestr(name, data)


def test_what_is_saved_comes_back(saved):
    before, after = observation(), recording.load(saved)
    for name in ("times", "clock", "values"):
        np.testing.assert_array_equal(getattr(after.window, name), getattr(before.window, name))
    for name in ("level", "scale", "count"):
        np.testing.assert_array_equal(getattr(after.baseline, name), getattr(before.baseline, name))
    assert after.window.series == before.window.series
    assert after.baseline.source == "history"
    for name in ("host", "events", "coverage", "own_pids"):
        assert getattr(after, name) == getattr(before, name)
    assert after.before.processes[7].threads == before.before.processes[7].threads
    assert after.before.cgroups == before.before.cgroups


def test_saving_again_what_was_loaded_changes_nothing(saved, tmp_path):
    again = tmp_path / "again.wardround"
    recording.save(recording.load(saved), again)
    with zipfile.ZipFile(saved) as one, zipfile.ZipFile(again) as two:
        assert {n: one.read(n) for n in one.namelist()} == {n: two.read(n) for n in two.namelist()}


def test_no_secret_of_the_host_is_in_the_file(saved):
    with zipfile.ZipFile(saved) as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    assert SECRET.encode() not in everything
    after = recording.load(saved)
    assert after.before.processes[7].cmdline == f"db --password={MASK}"
    assert after.logs[0].text == f"login TOKEN={MASK}"


def test_only_its_owner_may_read_it(saved):
    assert saved.stat().st_mode & 0o077 == 0


def test_numbers_that_are_not_finite_survive(tmp_path):
    original = observation()
    process = replace(original.before.processes[7], cpu_time=math.inf)
    topology = replace(original.before, processes={7: process})
    recording.save(replace(original, before=topology), tmp_path / "x")
    assert recording.load(tmp_path / "x").before.processes[7].cpu_time == math.inf


@pytest.mark.parametrize(
    "content", [b"", b"text", b"PK\x03\x04broken", b"\x00" * 4096], ids=["empty", "text", "cut", "zero"]
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a recording"):
        recording.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            recording.load(path)


def test_another_zip_file_is_refused(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match="cannot be read") as refusal:
        recording.load(path)
    assert "meta.json" in refusal.value.why


def test_a_later_version_is_named(saved):
    altered(saved, meta_dot_json=json.dumps({"format": recording.FORMAT, "version": 99, "by": "wardround 9.9"}))
    with pytest.raises(UserError, match="version 99") as refusal:
        recording.load(saved)
    assert "9.9" in refusal.value.do


def test_members_that_are_too_large_are_not_unpacked(saved, monkeypatch):
    monkeypatch.setattr(recording, "MAX_FACTS", 100_000)
    altered(saved, facts_dot_json=b" " * 50_000_000)
    with pytest.raises(UserError, match="damaged") as refusal:
        recording.load(saved)
    assert "larger than" in refusal.value.why


def header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "data",
    [header("(99999999999,)"), header("(3,)", "|O") + b"\x00" * 24, b"\x93NUMPY\x03\x00", b"", header("(3, 'x')")],
    ids=["lying", "objects", "layout", "empty", "shape"],
)
def test_an_array_that_lies_about_itself_is_refused_before_anything_is_allocated(saved, data):
    altered(saved, values_dot_npy=data)
    with pytest.raises(UserError, match="damaged"):
        recording.load(saved)


def test_arrays_that_do_not_fit_together_are_refused(saved):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((9, 9)))
    altered(saved, values_dot_npy=buffer.getvalue())
    with pytest.raises(UserError, match="damaged"):
        recording.load(saved)


def test_a_clock_that_runs_backwards_is_refused(saved):
    buffer = io.BytesIO()
    np.save(buffer, np.array([7.0, 6.0, 5.0]))
    altered(saved, clock_dot_npy=buffer.getvalue())
    with pytest.raises(UserError, match="damaged"):
        recording.load(saved)


def test_facts_of_the_wrong_type_are_refused_with_the_place(saved):
    with zipfile.ZipFile(saved) as archive:
        facts = json.loads(archive.read("facts.json"))
    facts["host"]["cpus"] = "many"
    altered(saved, facts_dot_json=json.dumps(facts))
    with pytest.raises(UserError, match="damaged") as refusal:
        recording.load(saved)
    assert "host.cpus" in refusal.value.why


def test_a_metric_this_version_does_not_know_is_left_out_and_said(saved):
    with zipfile.ZipFile(saved) as archive:
        facts = json.loads(archive.read("facts.json"))
    facts["series"][0][0] = "future.metric"
    altered(saved, facts_dot_json=json.dumps(facts))
    after = recording.load(saved)
    assert [series.name for series in after.window.series] == ["system.cpu.time"]
    assert after.window.values.shape == (3, 1)
    assert "future.metric" in after.coverage.skipped[-1].reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_either_refused_or_read_never_a_crash(saved, data):
    content = bytearray(saved.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken = saved.with_name("broken")
    broken.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(UserError):
        recording.load(broken)


def test_a_place_that_cannot_be_written_is_a_state_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        recording.save(observation(), tmp_path / "file" / "case")
    with pytest.raises(StateError):
        recording.save(observation(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_crash_is_kept_without_its_secrets_and_older_recordings_have_none(tmp_path: Path) -> None:
    crash = PastCrash(
        90.0,
        log="/var/crash/1/dmesg.1",
        vmcore=Vmcore(
            DumpHeader("/var/crash/1/dmesg.1", "log", 10, "log"),
            panic=Panic("Fatal exception", "null_pointer", stack=(StackFrame("fn", 4, exception=True),)),
            log=(LogLine(1.0, f"login with password={SECRET}"),),
        ),
    )
    path = tmp_path / "with.wardround"
    recording.save(replace(observation(), crashes=(crash,)), path)
    (loaded,) = recording.load(path).crashes
    assert loaded.vmcore is not None
    assert crash.vmcore is not None
    assert SECRET not in loaded.vmcore.log[0].text
    assert replace(loaded.vmcore, log=()) == replace(crash.vmcore, log=())
    recording.save(observation(), path)
    assert recording.load(path).crashes == ()
