"""Extreme-value tails: how improbable is this score, for this series, by the tail of its own past scores.

Decides by peaks over a threshold: the threshold is a streaming high quantile, the excesses over it follow a generalised
Pareto law whose parameters come from the first two moments of the excesses. Only those moments are kept, so a tick
is a few array operations for all series, where maximum likelihood would be thousands of times slower.

Cannot know more than the past showed: with h excesses seen, a probability far under the share of one in h is an
extrapolation, and the moments do not exist for tails heavier than shape 0.5. An alarm budget
(`detectors.fusion.AlarmBudget`) takes up what this misjudges.

Cost: 1,000 series take 120 µs of CPU a tick, and 56 bytes each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.base import Arrays, ColumnDetector
from detectors.statistics import surprise
from wardround.models.series import FloatArray, IntArray


class ExtremeTail(ColumnDetector):
    """Turns scores into surprise, -log10 of their tail probability; 0 below the threshold.

    Parameters
    ----------
    quantile
        Share of past scores under the threshold.
    memory
        Excesses remembered: older ones are forgotten exponentially.
    warmup
        Scores of a series before it has a tail.
    min_excess
        Excesses before their shape is believed; until then the tail is exponential.
    rate
        Step of the streaming quantile, in mean deviations.
    clip
        Excesses are learnt up to this many mean excesses: one enormous score must not make the next one usual.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(7)
    >>> detector = ExtremeTail()
    >>> detector.fit(np.abs(rng.normal(0, 1, (5000, 2))))
    >>> detector.update(np.array([1.0, 6.0])).round(1).tolist()
    [0.0, 6.4]

    A half-normal law gives 6.0 a surprise of 8.7: the moments' tail is the heavier, safer one.

    References
    ----------
    Siffer, Fouque, Termier and Largouet 2017, Anomaly detection in streams with extreme value theory, KDD.
    Hosking and Wallis 1987, Parameter and quantile estimation for the generalized Pareto distribution.
    """

    def __init__(
        self,
        quantile: float = 0.98,
        memory: float = 200.0,
        warmup: int = 120,
        min_excess: int = 10,
        rate: float = 0.05,
        clip: float = 8.0,
    ) -> None:
        self.quantile = quantile
        self.memory = memory
        self.warmup = warmup
        self.min_excess = min_excess
        self.rate = rate
        self.clip = clip
        self._reset()

    def _blank(self, size: int) -> Arrays:
        names = ("count", "centre", "spread", "edge", "excesses", "mean", "square")
        return {name: np.zeros(size) for name in names}

    def _update(self, values: FloatArray) -> FloatArray:
        state = self._state
        count, edge = state["count"], state["edge"]
        seen = ~np.isnan(values)
        x = np.where(seen, values, edge)
        first = seen & (count == 0)
        np.copyto(state["centre"], x, where=first)
        np.copyto(edge, x, where=first)
        over = np.flatnonzero(x > edge)  # few: all that concerns the tail is done for these columns only
        excess = x[over] - edge[over]
        ready = seen & (count >= self.warmup)
        scores = np.where(ready, 0.0, np.nan)
        scores[over] = np.where(ready[over], surprise(self._tail(excess, over)), np.nan)
        self._learn(x, seen, excess, over)
        return scores

    def _tail(self, excess: FloatArray, over: IntArray) -> FloatArray:
        """Return P(score > edge + excess) for the columns `over`."""
        state = self._state
        mean = np.maximum(state["mean"][over], 1e-3 * np.maximum(state["spread"][over], 1e-12))
        variance = np.maximum(state["square"][over] - mean**2, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(variance > 0, mean**2 / variance, 1.0)
            known = state["excesses"][over] >= self.min_excess
            shape = np.where(known, np.clip(0.5 * (1 - ratio), 0.0, 0.45), 0.0)
            scale = mean * (1 - shape)
            reach = excess / scale
            heavy = np.exp(-np.log1p(shape * reach) / np.maximum(shape, 1e-3))
            light = np.exp(-np.minimum(reach, 700.0))
        beyond: FloatArray = np.where(shape > 1e-3, heavy, light)
        return (1 - self.quantile) * beyond

    def _learn(self, x: FloatArray, seen: NDArray[np.bool_], excess: FloatArray, over: IntArray) -> None:
        state = self._state
        count, edge = state["count"], state["edge"]
        slow = np.maximum(1 / (count + 1), (1 - self.quantile) / self.memory) * seen
        away = x - state["centre"]
        state["centre"] += slow * away
        state["spread"] += slow * (np.abs(away) - state["spread"])
        # the first scores find the place of the edge in large steps
        step = np.maximum(self.rate, 2 / np.sqrt(count + 1)) * state["spread"]
        edge -= step * (1 - self.quantile) * seen
        edge[over] += step[over]
        state["excesses"][over] += 1
        excesses, mean, square = (state[name][over] for name in ("excesses", "mean", "square"))
        weight = np.maximum(1 / excesses, 1 / self.memory)
        learnt = np.where(excesses > self.min_excess, np.minimum(excess, self.clip * mean), excess)
        state["mean"][over] += weight * (learnt - mean)
        state["square"][over] += weight * (learnt**2 - square)
        count += seen
