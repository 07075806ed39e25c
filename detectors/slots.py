"""Places for the series that are alive: a host that forks all day must not make the detectors grow.

A catalogue numbers every series it ever saw. Detectors keep their state by slot instead; the slot of a series not
seen for a while goes to the next newcomer. Counters become rates here, from each series' own last reading.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.material import smallest
from wardround.models.series import Catalogue, FloatArray, Frame, IntArray, Series

NONE = -1


class Slots:
    """Maps the ids of frames to slots. `series[slot]` is None where the slot is free."""

    def __init__(self, catalogue: Catalogue, forget_after: int = 600) -> None:
        self.catalogue = catalogue
        self.forget_after = forget_after
        self.series: list[Series | None] = []
        self.version = 0  # rises when a slot changes hands
        self._slot: NDArray[np.int32] = np.full(0, NONE, np.int32)
        self._seen: IntArray = np.zeros(0, np.int64)
        self._counter = np.zeros(0, dtype=bool)
        self.least = np.zeros(0)
        self._value = np.zeros(0)
        self._clock = np.zeros(0)
        self._tick = 0

    def __len__(self) -> int:
        return len(self.series)

    @property
    def live(self) -> IntArray:
        """The slots in use."""
        return np.array([slot for slot, series in enumerate(self.series) if series is not None], dtype=np.int64)

    def levels(self, frame: Frame) -> tuple[FloatArray, IntArray]:
        """Return ``[slots]`` levels of a tick (NaN where nothing was read) and the slots that changed hands."""
        self._tick += 1
        slots = self._lookup(frame.ids)
        fresh = np.empty(0, np.int64)
        if (slots < 0).any():
            fresh = self._admit(np.unique(frame.ids[slots < 0]))
            slots = self._lookup(frame.ids)
        self._seen[slots] = self._tick
        values = frame.values
        elapsed = frame.clock - self._clock[slots]
        change = values - self._value[slots]
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = np.where((change >= 0) & (elapsed > 0), change / elapsed, np.nan)
        levels = np.full(len(self), np.nan)
        levels[slots] = np.where(self._counter[slots], rates, values)
        read = ~np.isnan(values)
        self._value[slots[read]] = values[read]
        self._clock[slots[read]] = frame.clock
        return levels, fresh

    def move_to(self, catalogue: Catalogue) -> None:
        """Follow the sampler to a fresh catalogue; slots keep their series."""
        self.catalogue = catalogue
        self._slot = np.full(len(catalogue), NONE, np.int32)
        for slot, series in enumerate(self.series):
            if series is not None:
                number = catalogue.add(series)
                self._reach(number)
                self._slot[number] = slot

    def _lookup(self, ids: IntArray) -> IntArray:
        if len(ids):
            self._reach(int(ids.max()))
        return self._slot[ids].astype(np.int64)

    def _reach(self, number: int) -> None:
        if number >= len(self._slot):
            more = max(number + 1, 2 * len(self._slot)) - len(self._slot)
            self._slot = np.concatenate([self._slot, np.full(more, NONE, np.int32)])

    def _admit(self, newcomers: IntArray) -> IntArray:
        silent = np.flatnonzero(self._seen < self._tick - self.forget_after)
        reused = silent[: len(newcomers)]
        if len(reused):
            self._slot[np.isin(self._slot, reused)] = NONE
        more = len(newcomers) - len(reused)
        if more:
            size = len(self.series)
            self.series += [None] * more
            for name in ("_seen", "_counter", "least", "_value", "_clock"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(more, old.dtype)]))
            slots = np.concatenate([reused, np.arange(size, size + more)])
        else:
            slots = reused
        for number, slot in zip(newcomers.tolist(), slots.tolist(), strict=True):
            series = self.catalogue[number]
            self.series[slot] = series
            self._counter[slot] = series.metric.kind == "counter"
            self.least[slot] = smallest(series.metric)
        self._slot[newcomers] = slots
        self._value[slots] = np.nan
        self._clock[slots] = np.nan
        self._seen[slots] = self._tick
        self.version += 1
        return slots
