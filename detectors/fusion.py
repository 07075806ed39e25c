"""From scores to alarms: one threshold from a budget of false alarms, persistence, merging, and a limit on the rate.

Decides which of many tail probabilities are worth a person's attention. What is asked of the user is a budget (false
alarms per scan, or per host and day), never a threshold. A fixed threshold does not hold a budget: the same p gives
ten times the alarms on another host, since noise models are wrong differently everywhere. So the streaming side
starts from the derived threshold and steers it by the alarms that came.

Cannot know which alarms were false: the budget treats all alarms alike, and a host with real trouble each hour will
be answered by a stricter threshold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import comb, log10
from typing import Literal

import numpy as np

from detectors.base import Arrays
from wardround.models.anomaly import Anomaly, Shape
from wardround.models.series import FloatArray, Series

DAY = 86_400.0

# where detectors disagree on the shape, the one that says most comes first
_SHAPES: tuple[Shape, ...] = ("error", "saturation", "new", "burst", "trend", "shift", "spike")


def threshold(false_alarms: float, tests: int) -> float:
    """Return the p below which `tests` independent looks at nothing give `false_alarms` on average.

    >>> threshold(0.1, 2000)
    5e-05
    """
    return min(false_alarms / max(tests, 1), 0.5)


def persistent_threshold(false_alarms: float, ticks: int, k: int, n: int) -> float:
    """Return the p per tick at which "`k` of the last `n` ticks" happens `false_alarms` times in `ticks`.

    Ticks are taken as independent, which they are not: a starting point for `AlarmBudget`.
    """
    return float(min((false_alarms / max(ticks, 1) / comb(n, k)) ** (1 / k), 0.5))


def merge(anomalies: Iterable[Anomaly]) -> list[Anomaly]:
    """Make one of all that concern the same series: the smallest p, the most telling shape, every detector's name.

    Sorted by p, then by the size of the change.
    """
    by_series: dict[Series, list[Anomaly]] = {}
    for anomaly in anomalies:
        by_series.setdefault(anomaly.series, []).append(anomaly)
    merged = []
    for group in by_series.values():
        lead = min(group, key=lambda a: (_SHAPES.index(a.shape), a.p))
        dated = [a for a in group if a.shape in ("shift", "trend")] or [lead]
        usual = next((a.usual for a in group if not np.isnan(a.usual)), lead.usual)
        merged.append(
            Anomaly(
                lead.series,
                min(a.onset for a in dated),
                min(a.p for a in group),
                lead.level,
                usual,
                lead.shape,
                tuple(sorted({name for a in group for name in a.detectors})),
                "; ".join(dict.fromkeys(a.detail for a in group if a.detail)),
            )
        )
    return sorted(merged, key=lambda a: (a.p, -_size(a)))


def _size(anomaly: Anomaly) -> float:
    """Return how many times more or less than usual, as an absolute logarithm."""
    ratio = (abs(anomaly.level) + 1e-9) / (abs(anomaly.usual) + 1e-9)
    return abs(log10(ratio)) if np.isfinite(ratio) else 0.0


class AlarmBudget:
    """Holds the number of alarms per day at a budget by steering the surprise (-log10 p) an alarm needs.

    Every alarm raises the bar by `step` decades; between alarms it sinks at the rate that makes `per_day`
    alarms keep it level, down to the derived threshold at the lowest (Robbins-Monro).

    Examples
    --------
    >>> budget = AlarmBudget(per_day=1.0, tick=1.0)
    >>> round(budget.bar, 2)
    2.71
    >>> budget.spend(); round(budget.bar, 2)
    3.21
    >>> budget.rest(86_400.0); round(budget.bar, 2)
    2.71

    References
    ----------
    Robbins and Monro 1951, A stochastic approximation method.
    """

    def __init__(self, per_day: float = 1.0, tick: float = 1.0, k: int = 2, n: int = 3, step: float = 0.5) -> None:
        self.per_day = per_day
        self.tick = tick
        self.k = k
        self.n = n
        self.step = step
        self._lowest = -log10(persistent_threshold(per_day, int(DAY / tick), k, n))
        self._bar = self._lowest

    @property
    def bar(self) -> float:
        """The surprise that an alarm needs now."""
        return self._bar

    def spend(self) -> None:
        """An alarm was raised."""
        self._bar = min(self._bar + self.step, 15.0)

    def rest(self, seconds: float) -> None:
        """Time went by."""
        self._bar = max(self._bar - self.step * self.per_day * seconds / DAY, self._lowest)

    def state(self) -> Arrays:
        return {"bar": np.array([self._bar])}

    def restore(self, state: Arrays) -> None:
        self._bar = float(state["bar"][0])


class AlarmPolicy:
    """Turns the host's surprise of each tick into alarms: over the bar in `k` of `n` ticks, then quiet for a while.

    What is over the bar within `cooldown` seconds after the last such tick belongs to the same alarm.

    >>> policy = AlarmPolicy(per_day=1.0, tick=1.0)
    >>> [policy.update(surprise, clock) for clock, surprise in enumerate([0.1, 6.0, 6.0, 6.0, 0.2])]
    ['', '', 'begins', 'goes on', '']
    """

    def __init__(
        self, per_day: float = 1.0, tick: float = 1.0, cooldown: float = 120.0, k: int = 2, n: int = 3
    ) -> None:
        self.per_day = per_day
        self.tick = tick
        self.cooldown = cooldown
        self.k = k
        self.n = n
        self.budget = AlarmBudget(per_day, tick, k, n)
        self._recent: deque[bool] = deque(maxlen=n)
        self._quiet_until = -np.inf
        self._clock: float | None = None

    def update(self, surprise: float, clock: float) -> Literal["", "begins", "goes on"]:
        """Take a tick's surprise (NaN is no opinion) at monotonic `clock` seconds."""
        if self._clock is not None and clock > self._clock:
            self.budget.rest(clock - self._clock)
        self._clock = clock
        over = surprise >= self.budget.bar  # False for NaN
        self._recent.append(over)
        if not over or sum(self._recent) < self.k:
            return ""
        known = clock < self._quiet_until
        self._quiet_until = clock + self.cooldown
        if known:
            return "goes on"
        self.budget.spend()
        return "begins"


def host_value(surprises: FloatArray, most: int = 3) -> float:
    """Return the cubic mean of the `most` largest surprises: one number for the host, NaN without any opinion.

    Cubic, so that one series far out counts about as much as three that are half as far; the plain mean would drown it.

    >>> round(host_value(np.array([0.0, 12.0, np.nan, 0.0])), 1), round(host_value(np.array([6.0, 7.0, 8.0])), 1)
    (8.3, 7.1)
    """
    count = int(np.count_nonzero(~np.isnan(surprises)))
    if not count:
        return float("nan")
    risen = surprises[surprises > 0]  # most are 0, and False for NaN
    return float(np.cbrt((np.sort(risen)[-most:] ** 3).sum() / min(most, count)))
