"""What is usual for the series of a window, and where that is known from.

`history`: the segments of `diagnose watch`. The level is the median over the last hours' steps; the scale joins how
much steps differ (consistent MAD) with how much seconds differ within a step, so that it fits one-second values.
`boot`: without history, the kernel's counters since boot give a mean rate, with no scale. `none` otherwise.
It cannot know whether a fault was already there: history that is shorter than a fault calls the fault usual.
Measured: 0.5 s of CPU for 6 h of 2,000 series.
"""

from __future__ import annotations

import os
import time as clocks
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from collectors.base import Roots
from collectors.segment import CLOSED, OPEN, PENDING, Segment, ends_at, key_of, read_closed, read_open
from wardround.errors import StateError
from wardround.models.series import Baseline, FloatArray, Series, Window
from wardround.settings import SYSTEM_STATE, Settings

log = structlog.get_logger(__name__)

HOURS = 6.0
MOST_STEPS = 720
LEAST_STEPS = 6  # a minute: less is the present, not the usual
MAD = 1.4826  # makes the median absolute deviation estimate a normal law's standard deviation
LEAST_UPTIME = 300.0

# Counters that the kernel has counted since boot, not since a process, a control group, a connection or we began.
SINCE_BOOT = (
    "system.cpu.time",
    "linux.cpu.",
    "system.process.created",
    "system.context_switches",
    "system.interrupts",
    "linux.interrupts",
    "linux.softirqs",
    "linux.softnet.",
    "linux.psi.",
    "linux.vmstat",
    "linux.numa",
    "linux.edac",
    "linux.mce",
    "system.disk.",
    "linux.disk.queue_time",
    "system.network.",
    "linux.network.carrier_changes",
    "linux.snmp",
)


@dataclass(frozen=True)
class Past:
    """Steps of chosen series, in order of time: `level`, `spread` ``[S, T]``; `problems` are sentences."""

    times: FloatArray
    level: NDArray[np.float32]
    spread: NDArray[np.float32]
    problems: tuple[str, ...] = ()


def baseline(window: Window, settings: Settings, roots: Roots | None = None, *, until: float | None = None) -> Baseline:
    """Return what is usual for the window's series: from history where the daemon kept one, else since boot.

    `until` (Unix seconds): only what was before counts as usual, for a trouble that began earlier than the window.
    """
    roots = roots or Roots()
    if not len(window.times):
        return Baseline.unknown(len(window.series))
    start = float(window.times[0]) if until is None else min(until, float(window.times[0]))
    past = read_past(history_folders(settings), window.series, start - HOURS * 3600, start)
    for problem in past.problems:
        log.warning("history_segment_skipped", why=problem)
    found = from_past(past, _valid_from(window.series, roots))
    return found if (found.count >= LEAST_STEPS).any() else since_boot(window, roots)


def history_folders(settings: Settings) -> list[Path]:
    """Return where segments may lie: our own state, and the system's daemon's."""
    folders = [settings.state_dir / "history", SYSTEM_STATE / "history"]
    return [folder for folder in dict.fromkeys(folders) if os.access(folder, os.R_OK | os.X_OK)]


def read_past(folders: Iterable[Path], series: tuple[Series, ...], since: float, until: float) -> Past:
    """Return the steps of `series` that ended in ``(since, until]``; what cannot be read is told and passed over."""
    wanted = {key_of(one): row for row, one in enumerate(series)}
    problems: list[str] = []
    parts: list[Past] = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            try:
                segment = _open(path, since)
            except StateError as error:
                problems.append(f"{error.what}: {error.why}")
                continue
            if segment is not None:
                parts.append(_pick(segment, wanted, len(series), since, until))
    parts = [part for part in parts if len(part.times)]
    if not parts:
        empty = np.empty((len(series), 0), np.float32)
        return Past(np.empty(0), empty, empty, tuple(problems))
    times = np.concatenate([part.times for part in parts])
    times, order = np.unique(times, return_index=True)  # a segment closed while we read is there in both forms
    level = np.concatenate([part.level for part in parts], axis=1)[:, order]
    return Past(times, level, np.concatenate([part.spread for part in parts], axis=1)[:, order], tuple(problems))


def _open(path: Path, since: float) -> Segment | None:
    """Return the segment in this file, None where it is none or all of it is older than `since`."""
    if path.name == OPEN or path.suffix == PENDING:
        try:
            return read_open(path)
        except StateError:
            if path.exists():
                raise
            return None  # it was closed meanwhile
    end = ends_at(path) if path.suffix == CLOSED else None
    return read_closed(path) if end is not None and end >= since and not path.name.startswith(".") else None


def _pick(segment: Segment, wanted: dict[tuple[str, str], int], size: int, since: float, until: float) -> Past:
    steps = np.flatnonzero((segment.times > since) & (segment.times <= until))
    pairs = [(wanted[key], row) for row, key in enumerate(segment.keys) if key in wanted]
    level = np.full((size, len(steps)), np.nan, np.float32)
    spread = level.copy()
    if pairs:
        ours, theirs = np.array(pairs).T
        level[ours], spread[ours] = segment.level[np.ix_(theirs, steps)], segment.spread[np.ix_(theirs, steps)]
    return Past(segment.times[steps], level, spread)


def from_past(past: Past, valid_from: FloatArray) -> Baseline:
    """Reduce steps to level, scale and count; steps before `valid_from` ``[S]`` are about another bearer.

    Of more than `MOST_STEPS` steps every second, third … is used: the median gains nothing from the others.
    """
    size = len(valid_from)
    if not len(past.times):
        return Baseline.unknown(size)
    stride = slice(None, None, -(-len(past.times) // MOST_STEPS))
    level, spread = past.level[:, stride], past.spread[:, stride]
    level = np.where(past.times[stride] >= valid_from[:, None], level, np.float32(np.nan))
    count = (~np.isnan(level)).sum(axis=1)
    known = np.flatnonzero(count >= LEAST_STEPS)
    middle, scale = np.full(size, np.nan), np.full(size, np.nan)
    if len(known):
        part = level[known]
        middle[known] = _median(part)
        between = MAD * _median(np.abs(part - middle[known, None].astype(np.float32)))
        within = spread[known]
        within = np.where(np.isnan(within) & ~np.isnan(part), np.float32(0), within)  # one tick in a step: no spread
        scale[known] = np.hypot(between, np.nan_to_num(_median(within)))
    return Baseline(middle, scale, np.where(count >= LEAST_STEPS, count, 0).astype(np.float64), "history")


def _median(values: NDArray[np.float32]) -> FloatArray:
    """`np.nanmedian` over columns, several times faster and without its warning for empty rows."""
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(values)).sum(axis=1)
    rows = np.arange(len(values))
    lower, upper = ordered[rows, np.maximum(count - 1, 0) // 2], ordered[rows, count // 2]
    middle: FloatArray = (lower.astype(np.float64) + upper) / 2
    return middle


def _valid_from(series: tuple[Series, ...], roots: Roots) -> FloatArray:
    """Return since when each series is about the same thing: a pid's is only as old as the process."""
    started: dict[str, float] = {}
    out = np.zeros(len(series))
    for row, one in enumerate(series):
        pid = one.label("pid")
        if pid is not None:
            if pid not in started:
                started[pid] = _started(pid, roots)
            out[row] = started[pid]
    return out


def _started(pid: str, roots: Roots) -> float:
    """Return a process's start in Unix seconds, infinity where it is gone."""
    try:
        with open(f"{roots.proc}/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        with open(f"{roots.proc}/stat", "rb") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith(b"btime"))
    except (OSError, ValueError, IndexError, StopIteration):
        return float("inf")
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def since_boot(window: Window, roots: Roots | None = None) -> Baseline:
    """Return the mean rates since boot of the counters that count since then; no scale is known."""
    size = len(window.series)
    if not len(window.times):
        return Baseline.unknown(size)
    uptime = _uptime(roots or Roots()) - (clocks.monotonic() - float(window.clock[0]))  # at the first tick
    if uptime < LEAST_UPTIME:
        return Baseline.unknown(size)
    counts = np.array([one.name.startswith(SINCE_BOOT) for one in window.series], dtype=bool) & window.is_counter
    seen = ~np.isnan(window.values)
    first = window.values[seen.argmax(axis=0), np.arange(size)]
    level = np.where(counts, first / uptime, np.nan)
    known = ~np.isnan(level)
    return Baseline(level, np.full(size, np.nan), known.astype(np.float64), "boot" if known.any() else "none")


def _uptime(roots: Roots) -> float:
    try:
        with open(f"{roots.proc}/uptime") as file:
            return float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
