"""How large a change must be before an operator would care: significance without size is the noise of dashboards.

Decides by unit and kind, since a process's CPU share may triple from 0.1 % without meaning anything. The numbers are
judgement, one row each, small against every fault and large against an idle host's breathing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.models.metrics import Metric
from wardround.models.series import FloatArray, Series

# unit -> smallest change that matters: of a gauge, and of a counter's rate per second
SMALLEST: dict[str, tuple[float, float]] = {
    "s": (0.005, 0.05),  # latency 5 ms; 5 % of one CPU's time
    "By": (32 * 2**20, 2**20),
    "{event}": (5, 5),
    "{error}": (1, 0.5),
    "{packet}": (100, 200),
    "{segment}": (5, 2),
    "{operation}": (4, 20),
    "{page}": (8192, 2000),
    "{fault}": (1000, 2000),
    "{switch}": (1000, 2000),
    "{interrupt}": (1000, 2000),
    "{task}": (8, 5),
    "{process}": (8, 5),
    "{thread}": (8, 5),
    "{fd}": (64, 64),
    "{socket}": (32, 32),
    "{connection}": (8, 8),
    "{port}": (100, 100),
    "{inode}": (1000, 1000),
    "{block}": (10_000, 10_000),
    "{wakeup}": (1000, 2000),
    "{wait}": (100, 200),
    "{stall}": (5, 5),
    "{period}": (2, 2),
    "{request}": (2, 2),
    "{token}": (20, 20),
    "{change}": (1, 0.1),
    "{cpu}": (1, 1),
    "Cel": (10, 10),
    "Hz": (2e8, 2e8),
    "W": (30, 30),
    "1": (0.1, 0.1),
    "bit": (64, 64),
}

SHARE = 0.15  # and of the level before: a busy host may be a little busier

# clocks, buddy lists and our own cost move all the time and mean nothing by themselves
IGNORED = frozenset({
    "linux.buddy.free", "linux.entropy", "system.cpu.frequency", "wardround.collector.time", "wardround.tick.delay",
    "system.interrupts", "linux.tasks.runnable", "linux.disk.inflight",
})  # fmt: skip


def smallest(metric: Metric) -> float:
    """Return the smallest change of the metric's level that matters; infinite for a metric that is ignored."""
    if metric.name in IGNORED:
        return float("inf")
    gauge, rate = SMALLEST.get(metric.unit, (0.0, 0.0))
    return rate if metric.kind == "counter" else gauge


def smallest_changes(series: Sequence[Series]) -> FloatArray:
    """Return ``[S]`` smallest changes that matter, in each series' unit (per second for counters)."""
    known: dict[str, float] = {}
    out = np.empty(len(series))
    for column, one in enumerate(series):
        if one.name not in known:
            known[one.name] = smallest(one.metric)
        out[column] = known[one.name]
    return out


def is_material(before: FloatArray, after: FloatArray, least: FloatArray) -> NDArray[np.bool_]:
    """Tell ``[S]`` whether a change from `before` to `after` is at least `least` and a fair share of both levels."""
    change = np.abs(after - before)
    with np.errstate(invalid="ignore"):
        enough: NDArray[np.bool_] = change >= SHARE * np.minimum(np.abs(before), np.abs(after))
        return enough & (change >= least)
