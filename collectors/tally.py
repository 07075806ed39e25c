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

    def extend(self, numbers: Sequence[int], values: Sequence[float]) -> None:
        self._ids += numbers
        self._values += values

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
        self._places: dict[Hashable, int] = {}  # key -> its place in the lists below
        self._ids: list[int] = []
        self._sums: list[float] = []
        self._changed: list[int] = []  # tick of the last change
        self._told = 0  # how many of them have been emitted before; newcomers stand at the end
        self._tick, self._tokens = 0, BURST

    def add(self, keys: Sequence[Hashable], amounts: FloatArray, catalogue: Catalogue) -> None:
        """Add one tick's amounts (all positive, already scaled); keys may repeat."""
        fresh: dict[Hashable, float] = {}
        for key, amount in zip(keys, amounts.tolist(), strict=True):
            place = self._places.get(key)
            if place is not None:
                self._sums[place] += amount
                self._changed[place] = self._tick
            else:
                fresh[key] = fresh.get(key, 0.0) + amount
        admitted = sorted((key for key in fresh if fresh[key] >= self._least), key=lambda key: -fresh[key])
        for key in admitted[: self._tokens]:
            self._places[key] = len(self._ids)
            self._ids.append(catalogue.id(self.metric, **self._labels(key)))
            self._sums.append(fresh[key])
            self._changed.append(self._tick)
            self._tokens -= 1

    def emit(self, sink: Sink) -> None:
        """Put every admitted series' sum, changed or not, and forget the long silent. A newcomer's first value is 0."""
        self._tick += 1
        self._tokens = min(self._tokens + REFILL, BURST)
        if self._tick % 60 == 0 or len(self._ids) > ROWS:
            self._forget()
        newcomers = len(self._ids) - self._told
        sink.extend(self._ids, self._sums[: self._told] + [0.0] * newcomers if newcomers else self._sums)
        self._told = len(self._ids)

    def _forget(self) -> None:
        oldest = self._tick - SILENT_TICKS
        latest = sorted(range(len(self._ids)), key=lambda place: -self._changed[place])[:ROWS]
        kept = sorted(place for place in latest if self._changed[place] >= oldest)
        if len(kept) == len(self._ids):
            return
        names = list(self._places)
        self._places = {names[place]: new for new, place in enumerate(kept)}
        self._told = sum(place < self._told for place in kept)
        self._ids = [self._ids[place] for place in kept]
        self._sums = [self._sums[place] for place in kept]
        self._changed = [self._changed[place] for place in kept]


def largest(amounts: FloatArray, least: float, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the indexes of at most `count` amounts of at least `least`."""
    found = np.flatnonzero(amounts >= least)
    return found if len(found) <= count else found[np.argpartition(amounts[found], -count)[-count:]]
