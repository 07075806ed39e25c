"""Levels of a window for detection: gauges as they are, counters as rates, slow sources bridged.

`Window.levels` gives no rate across a gap. A source that reads every fifth tick is all gaps, yet its
rates are known: the rise since its last reading over the time since then.
"""

from __future__ import annotations

import numpy as np

from wardround.models.series import FloatArray, Window


def detection_levels(window: Window) -> FloatArray:
    """Return ``[T, S]`` levels: as `Window.levels`, with rates of sparse counters taken since their last reading."""
    levels = window.levels
    if not len(levels):
        return levels
    sparse = window.is_counter & (np.count_nonzero(~np.isnan(levels), axis=0) < len(levels) // 2)
    columns = np.flatnonzero(sparse)
    if not len(columns):
        return levels
    out = levels.copy()
    out[:, columns] = rates_since_last(window.clock, window.values[:, columns])
    return out


def rates_since_last(clock: FloatArray, values: FloatArray) -> FloatArray:
    """Return ``[T, S]`` rates per second since the last reading; NaN where nothing was read or a counter fell.

    >>> rates_since_last(np.arange(5.0), np.array([[1.0], [np.nan], [5.0], [np.nan], [9.0]])).ravel().tolist()
    [nan, nan, 2.0, nan, 2.0]
    """
    seen = ~np.isnan(values)
    rows = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(seen, rows, -1), axis=0)
    previous = np.vstack([np.full((1, values.shape[1]), -1), last[:-1]])
    known = seen & (previous >= 0)
    at = np.maximum(previous, 0)
    change = values - np.take_along_axis(values, at, axis=0)
    elapsed = clock[:, None] - clock[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known & (change >= 0) & (elapsed > 0), change / elapsed, np.nan)
