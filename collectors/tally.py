"""Turns what a tick's maps held into cumulative counters of named series, bounded in number.

Entities come and go (a fork storm has thousands a second), series stay numbered for good: so a series is admitted
only when its entity is among the largest of a tick and above a least amount, and leaves after being silent for long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from wardround.models.series import Catalogue, FloatArray, Frame

SILENT_TICKS = 300
BURST, REFILL, ROWS = 64, 4, 128


class Sink:
    """Collects the values of one tick; `frame` hands them over and begins the next.

    A cumulative counter that begins with tracing is put with `count`: its first value is told as 0 and the real one
    from the next tick on, or its first rise would be lost (a rate needs two values).
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._ids: list[int] = []
        self._values: list[float] = []
        self._announced: set[int] = set()

    def put(self, number: int, value: float) -> None:
        self._ids.append(number)
        self._values.append(value)

    def count(self, number: int, value: float) -> None:
        if number not in self._announced:
            self._announced.add(number)
            value = 0.0
        self.put(number, value)

    def frame(self, time: float, clock: float) -> Frame:
        frame = Frame(time, clock, np.array(self._ids, np.int64), np.array(self._values, np.float64))
        self._ids, self._values = [], []
        return frame


class Tally:
    """Cumulative sums by entity for one metric; `labels` names a key's labels.

    `least` is what an entity must have in one tick to be admitted. Admission is a token bucket: `BURST` entities at
    once, then `REFILL` a tick, the largest first; beyond `ROWS` the longest silent leave.
    """

    def __init__(self, metric: str, labels: Callable[..., dict[str, object]], least: float = 1.0) -> None:
        self.metric = metric
        self._labels, self._least = labels, least
        self._rows: dict[Hashable, list[float]] = {}  # key -> [series id, sum, tick of last change]
        self._tick, self._tokens = 0, BURST

    def add(self, keys: Sequence[Hashable], amounts: FloatArray, catalogue: Catalogue) -> None:
        """Add one tick's amounts (all positive, already scaled); keys may repeat."""
        fresh: dict[Hashable, float] = {}
        for key, amount in zip(keys, amounts.tolist(), strict=True):
            row = self._rows.get(key)
            if row is not None:
                row[1] += amount
                row[2] = self._tick
            else:
                fresh[key] = fresh.get(key, 0.0) + amount
        admitted = sorted((key for key in fresh if fresh[key] >= self._least), key=lambda key: -fresh[key])
        for key in admitted[: self._tokens]:
            self._rows[key] = [catalogue.id(self.metric, **self._labels(key)), fresh[key], self._tick]
            self._tokens -= 1

    def emit(self, sink: Sink) -> None:
        """Put every admitted series' sum, changed or not, and forget the long silent."""
        self._tick += 1
        self._tokens = min(self._tokens + REFILL, BURST)
        if self._tick % 60 == 0 or len(self._rows) > ROWS:
            oldest = self._tick - SILENT_TICKS
            kept = sorted(self._rows.items(), key=lambda item: -item[1][2])[:ROWS]
            self._rows = {key: row for key, row in kept if row[2] >= oldest}
        for number, total, _ in self._rows.values():
            sink.count(int(number), total)


def largest(amounts: FloatArray, least: float, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the indexes of at most `count` amounts of at least `least`."""
    found = np.flatnonzero(amounts >= least)
    return found if len(found) <= count else found[np.argpartition(amounts[found], -count)[-count:]]
