"""Ticks become steps, steps become segments on disk, and segments become what is usual."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import structlog

from collectors import baseline as baseline_module
from collectors import segment_writer
from collectors.base import Roots
from collectors.baseline import baseline, read_past
from collectors.history import FLUSH, Recorder, Steps
from collectors.ring import Ring, Span
from collectors.segment import (
    CLOSED,
    OPEN,
    PENDING,
    Segment,
    ends_at,
    key_of,
    name_of,
    read_closed,
    read_open,
    write_closed,
    write_open,
)
from wardround.errors import StateError
from wardround.models.series import Catalogue, Frame, Series, Window
from wardround.settings import Settings

LOAD = Series.of("linux.load_1m")
SWITCHES = Series.of("system.context_switches")


@pytest.fixture(autouse=True)
def no_system_history(tmp_path, monkeypatch):
    """Keep the history of a daemon that this host may run out of the tests."""
    monkeypatch.setattr(baseline_module, "SYSTEM_STATE", tmp_path / "nowhere")


def segment(start: float = 1.8e9, steps: int = 4, value: float = 1.0) -> Segment:
    times = start + 10.0 * np.arange(steps)
    level = np.full((2, steps), value, np.float32)
    return Segment(times, "boot", (key_of(LOAD), key_of(SWITCHES)), level, np.zeros_like(level))


def span(catalogue: Catalogue, values: list[list[float]], start: float = 0.0) -> Span:
    matrix = np.array(values, float)
    clock = start + np.arange(len(matrix), dtype=float)
    return Span(1.8e9 + clock, clock, matrix, np.arange(matrix.shape[1]))


def recorder(folder: Path, **changed: float) -> tuple[Ring, Recorder]:
    catalogue = Catalogue()
    catalogue.add(LOAD)
    catalogue.add(SWITCHES)
    ring = Ring(catalogue, ticks=100)
    numbers = {"step": 10.0, "segment": 60.0, "hours": 24.0, "max_bytes": 10**8} | changed
    return ring, Recorder(ring, folder, boot_id="boot", **numbers)


def play(ring: Ring, history: Recorder, ticks: range, start: float) -> None:
    for tick in ticks:
        ring.append(Frame(start + tick, float(tick), np.array([0, 1]), np.array([2.0, 100.0 * tick])))
        history.tick(float(tick))


@pytest.mark.parametrize("write", ["open", "closed"])
def test_a_segment_comes_back_as_it_was_written(tmp_path, write):
    odd = Series.of("linux.cgroup.cpu.usage", cgroup="/a\udcff b/\u202e,\x1b=")
    given = Segment(
        1.8e9 + np.arange(3.0),
        "boot",
        (key_of(LOAD), key_of(odd if write == "open" else SWITCHES)),
        np.array([[1, np.nan, 3], [4, 5, 6]], np.float32),
        np.zeros((2, 3), np.float32),
    )
    if write == "open":
        write_open(tmp_path / OPEN, given)
        got = read_open(tmp_path / OPEN)
    else:
        got = read_closed(write_closed(tmp_path, given))
    assert got.keys == given.keys
    assert got.boot_id == "boot"
    np.testing.assert_array_equal(got.times, given.times)
    np.testing.assert_array_equal(got.level, given.level)


@pytest.mark.parametrize("form", ["open", "closed"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "flipped"])
def test_a_damaged_segment_is_a_sentence(tmp_path, form, damage):
    if form == "open":
        path, read = tmp_path / OPEN, read_open
        write_open(path, segment())
    else:
        path, read = write_closed(tmp_path, segment()), read_closed
    whole = path.read_bytes()
    middle = len(whole) // 2
    content = {
        "truncated": whole[:middle],
        "foreign": b"<html>not yours</html>" * 50,
        "empty": b"",
        "flipped": whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:-20] + bytes(20),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_name_tells_when_a_segment_ends(tmp_path):
    given = segment(1.8e9, steps=31)
    assert ends_at(write_closed(tmp_path, given)) == 1.8e9 + 300
    assert ends_at(tmp_path / "notes.parquet") is None


def test_a_clock_set_back_does_not_overwrite_a_segment(tmp_path):
    first, second = write_closed(tmp_path, segment(value=1)), write_closed(tmp_path, segment(value=2))
    assert first != second
    assert ends_at(first) == ends_at(second)
    assert read_closed(first).level[0, 0] == 1


def test_a_step_is_the_median_of_a_gauge_and_the_rate_of_a_counter():
    catalogue = Catalogue()
    for series in (LOAD, SWITCHES):
        catalogue.add(series)
    steps = Steps(catalogue)
    level, spread = steps.reduce(span(catalogue, [[1, 0], [9, 10], [2, np.nan], [np.nan, 30]]))
    assert level.tolist() == [2.0, 10.0]
    assert spread[0] == pytest.approx(np.std([1, 9, 2]))
    level, _ = steps.reduce(span(catalogue, [[np.nan, np.nan], [np.nan, 90]], start=4))
    assert np.isnan(level[0])
    assert level[1] == pytest.approx((90 - 30) / 2)  # since it was last seen, in the step before


def test_a_counter_that_was_reset_gives_no_rate():
    catalogue = Catalogue()
    for series in (LOAD, SWITCHES):
        catalogue.add(series)
    level, _ = Steps(catalogue).reduce(span(catalogue, [[1, 100], [1, 5]]))
    assert np.isnan(level[1])


def test_the_open_segment_can_be_read_half_a_minute_later_and_is_closed_in_time(tmp_path):
    ring, history = recorder(tmp_path)
    history.start()
    start = time.time() - 600
    play(ring, history, range(int(FLUSH) + 11), start)
    assert read_open(tmp_path / OPEN).level.shape[0] == 2
    play(ring, history, range(int(FLUSH) + 11, 100), start)
    history.close()
    assert not list(tmp_path.glob(f"*{PENDING}"))
    past = read_past([tmp_path], (SWITCHES, LOAD, Series.of("linux.entropy")), start - 1, start + 1000)
    assert len(past.times) == 9
    np.testing.assert_allclose(past.level[0], 100.0)
    np.testing.assert_allclose(past.level[1], 2.0)
    assert np.isnan(past.level[2]).all()
    assert not past.problems


def test_what_a_killed_daemon_left_is_closed_by_the_next(tmp_path):
    write_open(tmp_path / OPEN, segment(time.time() - 100))
    _, history = recorder(tmp_path)
    history.start()
    history.close()
    assert len(list(tmp_path.glob(f"*{CLOSED}"))) == 1
    assert not (tmp_path / OPEN).exists()


def test_a_damaged_leftover_is_told_and_removed(tmp_path):
    (tmp_path / OPEN).write_bytes(b"half of it")
    _, history = recorder(tmp_path)
    with structlog.testing.capture_logs() as logs:
        history.start()
        history.close()
    assert [entry["event"] for entry in logs] == ["history_segment_skipped"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_once_and_tried_again(tmp_path):
    """A full disk and a folder that is not ours fail in the same places; a file in the folder's way stands for both."""
    folder = tmp_path / "history"
    folder.write_text("in the way")
    ring, history = recorder(folder)
    start = time.time() - 600
    with structlog.testing.capture_logs() as logs:
        history.start()
        play(ring, history, range(75), start)
        assert history.failing
        folder.unlink()
        play(ring, history, range(75, 120), start)
        history.close()
    assert not history.failing
    assert history.lost == 6
    events = [entry["event"] for entry in logs]
    assert events.count("history_not_written") <= 2  # "File exists", then the writer's own sentence
    assert events[-1] == "history_written_again"
    assert list(folder.glob(f"*{CLOSED}"))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_keeps_pending_segments_until_there_is_room(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        write_open(tmp_path / f"a{PENDING}", segment())
        filler = tmp_path / "filler"
        filler.write_bytes(bytes(os.statvfs(tmp_path).f_bavail * 4096))
        command = [sys.executable, "-m", "collectors.segment_writer", str(tmp_path), "1e6", "1000000"]
        full = subprocess.run(command, capture_output=True, text=True, check=False)
        assert full.returncode == 1
        assert "waits: No space left" in full.stderr
        assert [path.name for path in tmp_path.iterdir() if path != filler] == [f"a{PENDING}"]
        filler.unlink()
        assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
        assert len(list(tmp_path.glob(f"*{CLOSED}"))) == 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_retention_deletes_the_old_and_then_the_oldest_above_the_bytes(tmp_path):
    now = 1.8e9 + 86_400
    old = write_closed(tmp_path, segment(now - 7200))
    kept = [write_closed(tmp_path, segment(now - 3600 + 300 * n)) for n in range(4)]
    (tmp_path / "mine.parquet").write_text("not a segment")
    assert segment_writer.retain(tmp_path, hours=1.5, most_bytes=10**9, now=now) == 1
    assert not old.exists()
    most = kept[2].stat().st_size + kept[3].stat().st_size
    assert segment_writer.retain(tmp_path, hours=1.5, most_bytes=most, now=now) == 2
    assert sorted(tmp_path.glob("2*")) == kept[2:]
    assert (tmp_path / "mine.parquet").exists()


def test_the_writer_ends_with_a_sentence_where_the_folder_is_gone(tmp_path, capsys):
    assert segment_writer.main([str(tmp_path / "gone"), "1", "1"]) == 0
    write_open(tmp_path / f"x{PENDING}", segment())
    (tmp_path / f"y{PENDING}").write_bytes(b"junk")
    assert segment_writer.main([str(tmp_path), "1e6", "1000000"]) == 1
    assert "is not a segment" in capsys.readouterr().err
    assert not list(tmp_path.glob(f"*{PENDING}"))


def window(at: float, *series: Series, values: list[list[float]] | None = None) -> Window:
    given = np.array(values if values is not None else [[1.0] * len(series)] * 2, float)
    clock = time.monotonic() + np.arange(len(given), dtype=float)
    return Window(at + np.arange(len(given)), clock, given, series)


def test_the_baseline_is_the_robust_level_and_a_scale_fit_for_seconds(tmp_path):
    folder = tmp_path / "history"
    folder.mkdir()
    now = time.time()
    rng = np.random.default_rng(7)
    level = rng.normal(50, 2, (1, 360)).astype(np.float32)
    level[0, :30] = 5000  # an incident of five minutes in an hour
    spread = np.full_like(level, 6.0)
    write_closed(folder, Segment(now - 3600 + 10.0 * np.arange(360), "b", (key_of(LOAD),), level, spread))
    (folder / f"{name_of(segment(now - 900))}{CLOSED}").write_bytes(b"PAR1 cut short")
    with structlog.testing.capture_logs() as logs:
        got = baseline(window(now, LOAD, SWITCHES), Settings(state_dir=tmp_path))
    assert got.source == "history"
    assert got.level[0] == pytest.approx(50, abs=1)
    assert 5.5 < got.scale[0] < 8
    assert got.count.tolist() == [pytest.approx(360, abs=1), 0]
    assert np.isnan(got.level[1])
    assert [entry["event"] for entry in logs] == ["history_segment_skipped"]


def test_a_pid_has_no_past_from_before_its_process_began(tmp_path):
    folder = tmp_path / "history"
    folder.mkdir()
    child = subprocess.Popen(["sleep", "60"])
    try:
        series = Series.of("process.memory.usage", pid=child.pid)
        gone = Series.of("process.memory.usage", pid=2**22)
        times = time.time() + 10.0 * np.arange(-30, 12) + 5
        level = np.ones((2, len(times)), np.float32)
        write_closed(folder, Segment(times, "b", (key_of(series), key_of(gone)), level, level))
        got = baseline(window(times[-1] + 1, series, gone), Settings(state_dir=tmp_path))
    finally:
        child.kill()
        child.wait()
    assert got.count.tolist() == [12, 0]


def test_without_history_counters_since_boot_give_a_rate_and_gauges_nothing(tmp_path):
    (tmp_path / "uptime").write_text("1000.0 0\n")
    pid = Series.of("process.cpu.time", pid=1, state="user")
    seen = window(time.time(), SWITCHES, LOAD, pid, values=[[5000.0, 1.0, 9.0], [5001.0, 1.0, 9.0]])
    got = baseline(seen, Settings(state_dir=tmp_path), Roots(proc=str(tmp_path)))
    assert got.source == "boot"
    assert got.level[0] == pytest.approx(5.0, rel=0.01)
    assert np.isnan(got.level[1:]).all()
    (tmp_path / "uptime").write_text("20.0 0\n")
    assert baseline(seen, Settings(state_dir=tmp_path), Roots(proc=str(tmp_path))).source == "none"
