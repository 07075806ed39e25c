"""In-window change points: did a series change its level within this window, when, and how sure is that.

Decides by the best single split of each series: a two-sample statistic, computed for every split at once by prefix
sums. It is the smaller of two: Student's t (an outlier widens its noise, so a spike is no shift) and the difference of
medians over the median absolute deviation (a spike moves no median). Serial correlation, the rule in host metrics,
is taken from the residuals and shortens the effective sample. The p-value is Student's with a Bonferroni factor
for the choice of the split; no permutations.

Cannot know: a change before the window, more than the strongest of several changes, or a change in variance. A ramp
looks like a shift in its middle; `detectors.trend` tells them apart. With 10 ticks no test without a noise model can
give a p-value under 0.01, so short windows lean on the model: a shift must be many times the noise.

Cost: 30 ticks of 3,000 series that all move take 7 to 9 ms of CPU, constant series next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.base import WindowDetector
from detectors.statistics import median, student_tail, surprise
from wardround.models.series import FloatArray, IntArray

MOST_FREEDOM = 8.0  # real series have heavier tails than a large sample's normal law admits
SEGMENT_SHARE = 15  # in long windows a side is at least 1/15 of it: a burst of a few ticks is no level
BLOCK = 512  # columns worked on at a time: keeps 900 ticks within the cache and memory bounded


@dataclass(frozen=True)
class Splits:
    """The best split of each of S series.

    `index` ``[S]`` is the first row after the change (-1 where there is none to speak of), `p` its two-sided
    probability under no change, `before` and `after` the median levels, `misfit` the sum of squares left
    over by the two levels.
    """

    index: IntArray
    p: FloatArray
    before: FloatArray
    after: FloatArray
    misfit: FloatArray

    @classmethod
    def none(cls, size: int) -> Splits:
        return cls(np.full(size, -1), np.ones(size), *(np.full(size, np.nan) for _ in range(3)))


def best_splits(levels: FloatArray, min_segment: int = 3, floor: float = 0.002) -> Splits:
    """Find the best single change of level in each column of ``[T, S]``; at least `min_segment` values on each side.

    `floor` is the noise that every series is granted, as a share of its largest absolute value: without it the
    smallest step of a constant series would be certain.
    """
    out = Splits.none(levels.shape[1])
    if len(levels) < 2 * min_segment:
        return out
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(levels, axis=0), np.fmax.reduce(levels, axis=0)
        moving = np.flatnonzero(high > low)
    for start in range(0, len(moving), BLOCK):
        columns = moving[start : start + BLOCK]
        part = _split_block(levels[:, columns], min_segment, floor)
        for name in ("index", "p", "before", "after", "misfit"):
            getattr(out, name)[columns] = getattr(part, name)
    return out


def _split_block(x: FloatArray, min_segment: int, floor: float) -> Splits:
    seen = ~np.isnan(x)
    n = np.count_nonzero(seen, axis=0)
    size = np.fmax.reduce(np.abs(x), axis=0)
    filled = np.where(seen, x, 0.0)
    centred = np.where(seen, x - filled.sum(axis=0) / n, 0.0)  # keeps the sums of squares exact for large levels
    left_n = np.cumsum(seen, axis=0)[:-1]
    left_sum = np.cumsum(centred, axis=0)[:-1]
    right_n = n - left_n
    min_segment = max(min_segment, len(x) // SEGMENT_SHARE)
    allowed = (left_n >= min_segment) & (right_n >= min_segment) & seen[1:]
    between = np.where(allowed, left_sum**2 * (n / np.maximum(left_n * right_n, 1)), -1.0)
    row = between.argmax(axis=0)
    columns = np.arange(x.shape[1])
    strength = between[row, columns]
    enough = strength >= 0
    n1, n2 = left_n[row, columns], right_n[row, columns]
    total = (centred**2).sum(axis=0)
    misfit = np.maximum(total - strength, 0.0)

    index = row + 1
    first = np.arange(len(x))[:, None] < index
    before, after = median(np.where(first, x, np.nan)), median(np.where(first, np.nan, x))
    residual = x - np.where(first, before, after)
    keep = _independence(residual, n)
    granted = floor * size
    harmonic = np.sqrt(1 / np.maximum(n1, 1) + 1 / np.maximum(n2, 1))
    deviation = np.sqrt(misfit / np.maximum(n - 2, 1) + granted**2)
    spread = np.hypot(1.4826 * median(np.abs(residual)), granted)
    step = np.abs(left_sum[row, columns]) * n / np.maximum(n1 * n2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.minimum(step / deviation, np.abs(after - before) / spread) / harmonic * np.sqrt(keep)
    freedom = np.clip(n * keep - 2, 1.0, MOST_FREEDOM)
    p = np.minimum(student_tail(np.nan_to_num(t), freedom) * np.maximum(allowed.sum(axis=0), 1), 1.0)
    return Splits(np.where(enough, index, -1), np.where(enough, p, 1.0), before, after, misfit)


def _independence(residual: FloatArray, n: IntArray) -> FloatArray:
    """Return the share of the sample that counts, (1-r)/(1+r) by the lag-one correlation r, its bias corrected.

    Each fitted level pulls the estimate down by about (1+3r)/n (Marriott and Pope 1954) and the choice of the split
    by as much again, so three times that is added.
    """
    r = np.where(np.isnan(residual), 0.0, residual)
    power = (r * r).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(power > 0, (r[1:] * r[:-1]).sum(axis=0) / power, 0.0)
    corrected = np.clip(raw + 3 * (1 + 3 * raw) / n, 0.0, 0.95)
    return (1 - corrected) / (1 + corrected)


class ChangePoint(WindowDetector):
    """Scores each tick by how surely the last `window` ticks contain a change of level: -log10 p.

    Parameters
    ----------
    window
        Ticks looked back.
    min_segment
        Fewest values on each side of a change.
    floor
        Noise granted to every series, as a share of its largest absolute value.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(7)
    >>> levels = rng.normal(10, 1, (30, 2))
    >>> levels[18:, 1] += 8
    >>> splits = best_splits(levels)
    >>> splits.index[1], (splits.p < 1e-6).tolist()
    (np.int64(18), [False, True])

    References
    ----------
    Sen and Srivastava 1975, On tests for detecting change in mean, Annals of Statistics 3(1).
    """

    def __init__(self, window: int = 30, min_segment: int = 3, floor: float = 0.002) -> None:
        self.window = window
        self.min_segment = min_segment
        self.floor = floor
        self._reset()

    def _score(self, block: FloatArray) -> FloatArray:
        scores = surprise(best_splits(block, self.min_segment, self.floor).p)
        enough = np.count_nonzero(~np.isnan(block), axis=0) >= 2 * self.min_segment + 2
        return np.where(enough, scores, np.nan)
