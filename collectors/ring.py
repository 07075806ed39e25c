"""The last minutes of every series in memory: one matrix that ticks are written into in a circle.

Values are kept raw in float64 (a float32 would lose the low digits of counters). A series gets a column when it is
first seen; once it was not seen for the length of the ring its column is free for another. The matrix grows by a
quarter at a time up to `columns`; beyond that the column that was silent longest gives way, and where all are in use
the newcomer is left out and counted in `refused`.
Measured: 900 ticks of 2,000 series take 13.7 MiB; a tick costs about 60 µs of CPU, a window of all 9 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.models.series import Catalogue, FloatArray, Frame, IntArray, Series, Window

FIRST_COLUMNS = 512
MOST_COLUMNS = 8192  # 56 MiB at 900 ticks: a host that churns through processes, not one that is busy
NONE = -1


@dataclass(frozen=True)
class Span:
    """Consecutive ticks, oldest first: `values` ``[T, S]`` raw, NaN where not seen; `ids` ``[S]`` of the catalogue."""

    times: FloatArray
    clock: FloatArray
    values: FloatArray
    ids: IntArray


class Ring:
    """Holds the last `ticks` frames. Not thread-safe: the loop that writes it also reads it."""

    def __init__(self, catalogue: Catalogue, ticks: int = 900, columns: int = MOST_COLUMNS) -> None:
        self.catalogue = catalogue
        self.ticks = ticks
        self.columns = columns
        self.refused = 0
        self._written = 0
        self._times = np.full(ticks, np.nan)
        self._clock = np.full(ticks, np.nan)
        self._values = np.full((ticks, min(FIRST_COLUMNS, columns)), np.nan)
        self._owner: IntArray = np.full(self._values.shape[1], NONE, np.int64)  # column -> id
        self._seen: IntArray = np.full(self._values.shape[1], NONE, np.int64)  # column -> tick of last sight
        self._column: NDArray[np.int32] = np.full(FIRST_COLUMNS, NONE, np.int32)  # id -> column

    def __len__(self) -> int:
        return min(self._written, self.ticks)

    @property
    def bytes(self) -> int:
        return int(self._values.nbytes)

    def append(self, frame: Frame) -> None:
        """Write one tick; of two values of one series the later holds."""
        row = self._written % self.ticks
        values = self._values[row]
        values.fill(np.nan)
        if len(frame.ids):
            columns = self._columns_of(frame.ids)
            kept = columns >= 0
            if not kept.all():
                self.refused += int(len(kept) - kept.sum())
                columns = columns[kept]
            values = self._values[row]  # the matrix may have grown
            values[columns] = frame.values[kept]
            self._seen[columns] = self._written
        self._times[row], self._clock[row] = frame.time, frame.clock
        self._written += 1

    def _columns_of(self, ids: IntArray) -> NDArray[np.int32]:
        highest = int(ids.max())
        if highest >= len(self._column):
            more = max(highest + 1, len(self._column) * 2) - len(self._column)
            self._column = np.concatenate([self._column, np.full(more, NONE, np.int32)])
        columns = self._column[ids]
        if (columns < 0).any():
            self._admit(np.unique(ids[columns < 0]), ids)
            columns = self._column[ids]
        return columns

    def _admit(self, newcomers: IntArray, ids: IntArray) -> None:
        """Give each newcomer a free column, a new one, or that of the series that was silent longest."""
        known = self._column[ids]
        self._seen[known[known >= 0]] = self._written  # what is in this frame must not be displaced by it
        free = self._free()
        if len(free) < len(newcomers):
            self._grow(len(newcomers) - len(free))
            free = self._free()
        if len(free) < len(newcomers):
            silent = np.flatnonzero((self._owner >= 0) & (self._seen < self._written))
            silent = np.setdiff1d(silent, free, assume_unique=True)
            oldest = silent[np.argsort(self._seen[silent], kind="stable")]
            free = np.concatenate([free, oldest])
        taken = free[: len(newcomers)]
        former = self._owner[taken]
        self._column[former[former >= 0]] = NONE
        displaced = taken[self._seen[taken] >= self._written - self.ticks]
        if len(displaced):  # the others' last value was overwritten, row by row, since they fell silent
            self._values[:, displaced] = np.nan
        self._owner[taken] = newcomers[: len(taken)]
        self._column[newcomers[: len(taken)]] = taken

    def _free(self) -> IntArray:
        return np.flatnonzero((self._owner < 0) | (self._seen < self._written - self.ticks))

    def _grow(self, missing: int) -> None:
        now = self._values.shape[1]
        more = min(max(missing, now // 4), self.columns - now)
        if more <= 0:
            return
        grown = np.full((self.ticks, now + more), np.nan)
        grown[:, :now] = self._values
        self._values = grown
        self._owner = np.concatenate([self._owner, np.full(more, NONE, np.int64)])
        self._seen = np.concatenate([self._seen, np.full(more, NONE, np.int64)])

    def span(self, seconds: float = float("inf")) -> Span:
        """Return a copy of the ticks of the last `seconds` (by the monotonic clock), without series unseen in them."""
        rows = np.arange(self._written - len(self), self._written) % self.ticks
        clock = self._clock[rows]
        if len(rows):
            rows = rows[clock >= clock[-1] - seconds]
        used = np.flatnonzero((self._owner >= 0) & (self._seen >= self._written - len(rows)))
        used = used[np.argsort(self._owner[used])]
        return Span(self._times[rows], self._clock[rows], self._values[np.ix_(rows, used)], self._owner[used])

    def window(self, seconds: float = float("inf")) -> Window:
        """Return the last `seconds` as a window, its columns by ascending id."""
        span = self.span(seconds)
        return Window(span.times, span.clock, span.values, tuple(self._series(span.ids)))

    def _series(self, ids: IntArray) -> list[Series]:
        return [self.catalogue[int(number)] for number in ids]

    def move_to(self, catalogue: Catalogue) -> None:
        """Carry the held series over to a fresh catalogue, which leaves the vanished ones behind."""
        used = np.flatnonzero((self._owner >= 0) & (self._seen >= self._written - len(self)))
        fresh = np.array([catalogue.add(series) for series in self._series(self._owner[used])], np.int64)
        self.catalogue = catalogue
        self._owner.fill(NONE)
        self._owner[used] = fresh
        self._column = np.full(max(len(catalogue), FIRST_COLUMNS), NONE, np.int32)
        self._column[fresh] = used
