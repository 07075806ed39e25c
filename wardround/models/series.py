"""Metrics as arrays: what a series is, one tick of many series, and a window of ticks.

Collectors write raw values: a gauge as it stands, a counter as the kernel's cumulative number. Rates are taken
here, over whole windows at once, so a collector keeps no state and "since boot" needs no second source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.models.metrics import METRICS, Metric

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one entity: a declared metric name and its labels, sorted by key."""

    name: str
    labels: Labels = ()

    @classmethod
    def of(cls, name: str, **labels: object) -> Series:
        return cls(name, tuple(sorted((key, str(value)) for key, value in labels.items())))

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    def label(self, key: str) -> str | None:
        return next((value for name, value in self.labels if name == key), None)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.labels)
        return f"{self.name}{{{inside}}}" if inside else self.name


class Catalogue:
    """Numbers every series once, so that the hot path handles integer ids and arrays only.

    Ids are dense from 0 and never reused within one catalogue.
    """

    def __init__(self) -> None:
        self._ids: dict[Series, int] = {}
        self._series: list[Series] = []

    def id(self, name: str, **labels: object) -> int:
        """Return the id of a series, numbering it on first sight. :raises KeyError: for an undeclared metric name"""
        return self.add(Series.of(name, **labels))

    def add(self, series: Series) -> int:
        known = self._ids.get(series)
        if known is None:
            if series.name not in METRICS:
                raise KeyError(f"metric {series.name!r} is not declared in wardround.models.metrics")
            known = self._ids[series] = len(self._series)
            self._series.append(series)
        return known

    def __getitem__(self, number: int) -> Series:
        return self._series[number]

    def __len__(self) -> int:
        return len(self._series)

    def __iter__(self) -> Iterator[Series]:
        return iter(self._series)


@dataclass(frozen=True, slots=True)
class Frame:
    """One tick: `values[i]` is the value of series `ids[i]`.

    `time` is Unix seconds (for people), `clock` is CLOCK_MONOTONIC seconds (for rates: wall clocks jump).
    """

    time: float
    clock: float
    ids: IntArray
    values: FloatArray

    @classmethod
    def empty(cls, time: float, clock: float) -> Frame:
        return cls(time, clock, np.empty(0, np.int64), np.empty(0, np.float64))

    @classmethod
    def merge(cls, time: float, clock: float, frames: Iterable[Frame]) -> Frame:
        parts = list(frames)
        if not parts:
            return cls.empty(time, clock)
        return cls(time, clock, np.concatenate([f.ids for f in parts]), np.concatenate([f.values for f in parts]))


def rates(clock: FloatArray, values: FloatArray) -> FloatArray:
    """Return per-second rates of cumulative counters, shape ``[T-1, ...]``.

    A counter that was not read on every tick gets its average rate since it was last seen; NaN where it was not
    seen and where it was reset (it fell).
    """
    before, step = _since_last_seen(clock, values)
    change = values[1:] - before
    return np.where(change >= 0, change, np.nan) / step


def _since_last_seen(clock: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return for each row but the first the last value seen before it and the seconds since, both ``[T-1, ...]``."""
    shape = (-1,) + (1,) * (values.ndim - 1)
    rows = np.arange(len(values)).reshape(shape)
    seen = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)[:-1]
    last = np.maximum(seen, 0)
    before = np.take_along_axis(values, last, axis=0)
    step = clock[1:].reshape(shape) - clock[last]
    return before, np.where((seen >= 0) & (step > 0), step, np.nan)


@dataclass(frozen=True)
class Window:
    """T ticks of S series as one matrix; NaN where a series was not seen.

    `times` ``[T]`` Unix seconds, `clock` ``[T]`` monotonic seconds, `values` ``[T, S]`` raw as collected.
    """

    times: FloatArray
    clock: FloatArray
    values: FloatArray
    series: tuple[Series, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, frames: Iterable[Frame]) -> Window:
        """Return the window of these frames, one column for every series that any of them holds, by ascending id."""
        ticks = list(frames)
        ids = np.unique(np.concatenate([f.ids for f in ticks])) if ticks else np.empty(0, np.int64)
        values = np.full((len(ticks), len(ids)), np.nan)
        for row, frame in enumerate(ticks):
            values[row, np.searchsorted(ids, frame.ids)] = frame.values
        times, clock = np.array([f.time for f in ticks], float), np.array([f.clock for f in ticks], float)
        return cls(times, clock, values, tuple(catalogue[int(number)] for number in ids))

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        index: dict[str, list[int]] = {}
        for column, series in enumerate(self.series):
            index.setdefault(series.name, []).append(column)
        return index

    @cached_property
    def _by_series(self) -> dict[Series, int]:
        return {series: column for column, series in enumerate(self.series)}

    @property
    def seconds(self) -> float:
        return float(self.clock[-1] - self.clock[0]) if len(self.clock) > 1 else 0.0

    @cached_property
    def is_counter(self) -> NDArray[np.bool_]:
        return np.array([s.metric.kind == "counter" for s in self.series], dtype=bool)

    @cached_property
    def levels(self) -> FloatArray:
        """``[T, S]``: gauges as they are, counters as rates per second (the first row of a counter is NaN)."""
        out = self.values.copy()
        counters = self.is_counter
        if counters.any() and len(self.clock):
            out[0, counters] = np.nan
            out[1:, counters] = rates(self.clock, self.values[:, counters])
        return out

    def names(self) -> set[str]:
        return set(self._by_name)

    def columns(self, name: str, **labels: object) -> list[int]:
        """Return the columns of a metric whose labels include the given ones."""
        found = self._by_name.get(name, [])
        if not labels:
            return list(found)
        wanted = {key: str(value) for key, value in labels.items()}
        return [c for c in found if wanted.items() <= dict(self.series[c].labels).items()]

    def column(self, name: str, **labels: object) -> int | None:
        """Return the one column with exactly these labels, or None."""
        return self._by_series.get(Series.of(name, **labels))

    def level(self, name: str, **labels: object) -> FloatArray:
        """Return ``[T]`` levels summed over all matching series (counters as rates); all NaN where nothing matches."""
        columns = self.columns(name, **labels)
        if not columns:
            return np.full(len(self.times), np.nan)
        part = self.levels[:, columns]
        seen = ~np.isnan(part).all(axis=1)
        return np.where(seen, np.nansum(part, axis=1), np.nan)

    def mean(self, name: str, **labels: object) -> float:
        """Return the mean level over the window (NaN if never seen); for a counter its average rate per second."""
        return nan_reduce(np.nanmean, self.level(name, **labels))

    def last(self, name: str, **labels: object) -> float:
        """Return the latest level that was seen (NaN if never)."""
        seen = self.seen(name, **labels)
        return float(seen[-1]) if len(seen) else float("nan")

    def seen(self, name: str, **labels: object) -> FloatArray:
        """Return the summed levels at the ticks where any matching series was read; empty where none ever was."""
        level = self.level(name, **labels)
        return level[~np.isnan(level)]

    def increase(self, name: str, **labels: object) -> float:
        """Return how much the matching counters rose over the window, resets left out (NaN if not seen twice)."""
        columns = self.columns(name, **labels)
        if not columns or len(self.times) < 2:
            return float("nan")
        part = self.values[:, columns]
        steps = part[1:] - _since_last_seen(self.clock, part)[0]
        if np.isnan(steps).all():
            return float("nan")
        return float(np.nansum(np.where(steps > 0, steps, 0.0)))

    def since_boot(self, uptime: float, name: str, **labels: object) -> float:
        """Return a counter's average rate from boot to the window's first tick; `uptime` in seconds at that tick."""
        columns = self.columns(name, **labels)
        if not columns or uptime <= 0 or not len(self.times):
            return float("nan")
        return nan_reduce(np.nansum, self.values[0, columns]) / uptime

    def entities(self, name: str, by: str, /, **labels: object) -> dict[str, list[int]]:
        """Group a metric's columns by one label: ``{label value: columns}``."""
        grouped: dict[str, list[int]] = {}
        for column in self.columns(name, **labels):
            value = self.series[column].label(by)
            if value is not None:
                grouped.setdefault(value, []).append(column)
        return grouped


@dataclass(frozen=True)
class Baseline:
    """What is usual for each column of a window: robust level and scale, and where that is known from.

    `level`, `scale` (consistent MAD) and `count` are ``[S]``, aligned with the window's series; NaN and 0 where not
    known. `source` is ``history`` (the watch daemon's segments), ``boot`` (counters since boot) or ``none``.
    """

    level: FloatArray
    scale: FloatArray
    count: FloatArray
    source: str = "none"

    @classmethod
    def unknown(cls, size: int) -> Baseline:
        return cls(np.full(size, np.nan), np.full(size, np.nan), np.zeros(size))


def nan_reduce(reduce: Any, values: FloatArray) -> float:
    """Apply a NumPy nan-reduction, NaN (without NumPy's warning) where every value is NaN."""
    return float(reduce(values)) if len(values) and not np.isnan(values).all() else float("nan")
