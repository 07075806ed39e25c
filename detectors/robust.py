"""Robust level and scale of every series, streaming: how far is this tick from what this series usually does.

Decides by the distance from an exponentially forgotten level in units of an exponentially forgotten mean absolute
deviation, both learnt from steps that are clipped, so that an outlier moves them no more than a large usual value
does. Everything is learnt at once, also what looks odd: a detector that refuses to learn a new level cries until
it is restarted. Optionally a seasonal offset for each part of a period (hour of the day) is kept beside the level.

Cannot know whether a distance matters, and its score is no probability: `detectors.extreme` makes it one.

Cost: 1,000 series take 40 µs of CPU a tick, and 24 bytes each (8 more for each seasonal bin).
"""

from __future__ import annotations

import numpy as np

from detectors.base import Arrays, ColumnDetector
from wardround.models.series import FloatArray, IntArray

TO_SIGMA = 1.2533  # mean absolute deviation of a normal law -> its standard deviation


class RobustLevel(ColumnDetector):
    """Scores by robust distance, at most ``1 / floor``.

    Parameters
    ----------
    span
        Ticks after which a value's weight has fallen to 1/e, about.
    clip
        Steps and deviations are learnt up to this many scales.
    floor
        Scale that every series is granted, as a share of its level and value: bounds the score of a constant
        that moves.
    warmup
        Values before a first score.
    period
        Ticks of a season (86,400 for a day at one tick a second); 0 for none.
    bins
        Parts of the period with an offset of their own.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(7)
    >>> detector = RobustLevel(warmup=30)
    >>> detector.fit(rng.normal(100, 5, (600, 2)))
    >>> detector.update(np.array([103.0, 140.0])).round(1).tolist()
    [0.4, 5.6]

    References
    ----------
    Huber 1964, Robust estimation of a location parameter, Annals of Mathematical Statistics 35(1).
    """

    def __init__(
        self,
        span: float = 300.0,
        clip: float = 3.0,
        floor: float = 0.01,
        warmup: int = 30,
        period: int = 0,
        bins: int = 24,
    ) -> None:
        self.span = span
        self.clip = clip
        self.floor = floor
        self.warmup = warmup
        self.period = period
        self.bins = bins
        self._reset()

    def _blank(self, size: int) -> Arrays:
        blank: Arrays = {"count": np.zeros(size), "level": np.zeros(size), "scale": np.zeros(size)}
        if self.period:
            blank["season"] = np.zeros((self.bins, size))
            blank["tick"] = np.zeros(size)
        return blank

    @property
    def level(self) -> FloatArray:
        """``[S]`` usual level, NaN where nothing was seen (without the seasonal offset)."""
        return np.where(self._state["count"] > 0, self._state["level"], np.nan)

    @property
    def scale(self) -> FloatArray:
        """``[S]`` usual deviation as a standard deviation, NaN where nothing was seen."""
        return np.where(self._state["count"] > 0, self._state["scale"], np.nan)

    def _update(self, values: FloatArray) -> FloatArray:
        state = self._state
        count, level, scale = state["count"], state["level"], state["scale"]
        seen = ~np.isnan(values)
        x = np.where(seen, values, level)
        np.copyto(level, x, where=seen & (count == 0))
        season, at = self._season(len(values))
        step = x - level - season
        granted = scale + self.floor * (np.abs(level) + np.abs(x))
        size = np.abs(step)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.where(granted > 0, size / granted, 0.0)
        scores = np.where(seen & (count >= self.warmup), np.minimum(scores, 1 / self.floor), np.nan)

        rate = np.maximum(1 / (count + 1), 1 / self.span) * seen
        bound = np.where(count >= self.warmup, self.clip * granted, np.inf)
        learnt = np.minimum(size, bound)
        signed = np.copysign(learnt, step)
        level += rate * signed
        scale += rate * (TO_SIGMA * learnt - scale)
        if at is not None:
            ready = seen & (count >= self.warmup)
            columns = np.flatnonzero(ready)
            state["season"][at[columns], columns] += 2 * self.bins / self.period * signed[columns]
        count += seen
        return scores

    def _season(self, size: int) -> tuple[FloatArray, IntArray | None]:
        """Return the offset of this tick's part of the period and its bin, and let the tick pass."""
        if not self.period:
            return np.zeros(size), None
        tick = self._state["tick"]
        at = (tick * self.bins // self.period).astype(np.int64) % self.bins
        tick += 1
        tick %= self.period
        return self._state["season"][at, np.arange(size)], at
