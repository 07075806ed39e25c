"""The watch daemon's detection, one tick at a time: when to call a round, and what to show it first.

Decides by the host's surprise (`detectors.host`), which must persist over the bar that the alarm budget sets
(`detectors.fusion.AlarmPolicy`). Rules on limits and errors speak beside that, once when they begin to be broken.

Cannot know: slow drifts (everything is learnt at once), anything in the first minutes, or the cause.

Cost: about 0.5 ms of CPU a tick for 700 to 1,000 series (``python -m benchmarks.detectors``).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from detectors.changepoint import best_splits
from detectors.fusion import AlarmPolicy, merge
from detectors.host import HostScore
from detectors.robust import RobustLevel
from detectors.saturation import RULE_P, Rules
from detectors.slots import Slots
from detectors.statistics import SMALLEST
from wardround.models.anomaly import Anomaly, Shape
from wardround.models.series import Catalogue, FloatArray, Frame, IntArray, Series

HISTORY = 60  # ticks of levels kept to date an onset
RULE_WINDOW = 10  # ticks a rule is judged over
RULES_EVERY = 5
COMPILE_EVERY = 30  # ticks, at the most often: on a host that forks all day the set of series always changes
SURPRISING = 3.0  # decades from which a series is named in an alarm


class Online:
    """Takes frames, returns anomalies where there is reason for an alarm (most ticks: none).

    `per_day` is the budget of alarms per host and day, `tick` the seconds between frames, `cooldown` the seconds an
    alarm covers what follows it, `own_pids` are never named.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        per_day: float = 1.0,
        tick: float = 1.0,
        cooldown: float = 120.0,
        most: int = 20,
        own_pids: Collection[int] = (),
    ) -> None:
        self.per_day = per_day
        self.tick = tick
        self.cooldown = cooldown
        self.most = most
        self.own = {str(pid) for pid in own_pids}
        self._policy = AlarmPolicy(per_day, tick, cooldown)
        self._slots = Slots(catalogue)
        self._distance = RobustLevel()
        self._score = HostScore(self._distance)
        self._ring = np.full((HISTORY, 0), np.nan, np.float32)
        self._times = np.full(HISTORY, np.nan)
        self._recent = np.zeros((self._policy.n, 0))
        self._ticks = 0
        self._rules = Rules(())
        self._rule_slots = np.empty(0, np.int64)
        self._rule_series: list[Series] = []
        self._compiled: tuple[int, int] = (-1, -COMPILE_EVERY)  # version of the slots, tick
        self._broken: set[Series] = set()

    def move_to(self, catalogue: Catalogue) -> None:
        """Follow the sampler to a fresh catalogue."""
        self._slots.move_to(catalogue)

    def update(self, frame: Frame) -> list[Anomaly]:
        """Take one tick; return the anomalies of an alarm that begins with it."""
        levels, fresh = self._slots.levels(frame)
        self._make_room(fresh)
        usual = self._distance.level
        usual = np.concatenate([usual, np.full(len(levels) - len(usual), np.nan)])
        with np.errstate(invalid="ignore"):
            small = np.abs(levels - usual) < self._slots.least
        surprises, host = self._score.update(levels, small)
        self._remember(frame, levels, surprises)
        found = self._suspects(usual) if self._policy.update(host, frame.clock) == "begins" else []
        if self._ticks % RULES_EVERY == 0:
            found += self._check_rules()
        return merge(found) if found else []

    def _make_room(self, fresh: IntArray) -> None:
        """Blank what slots that changed hands remember, and widen where there are new ones."""
        size, known = len(self._slots), self._ring.shape[1]
        reused = fresh[fresh < known]
        if len(reused):
            self._score.forget(reused)
            self._ring[:, reused] = np.nan
            self._recent[:, reused] = 0.0
        if size > known:
            self._ring = np.pad(self._ring, ((0, 0), (0, size - known)), constant_values=np.nan)
            self._recent = np.pad(self._recent, ((0, 0), (0, size - known)))

    def _remember(self, frame: Frame, levels: FloatArray, surprises: FloatArray) -> None:
        row = self._ticks % HISTORY
        self._ring[row] = levels
        self._times[row] = frame.time
        self._recent[self._ticks % self._policy.n] = np.nan_to_num(surprises)
        self._ticks += 1

    def _history(self, ticks: int) -> tuple[FloatArray, IntArray]:
        """Return the times and rows of the last `ticks`, oldest first."""
        rows = np.arange(max(self._ticks - ticks, 0), self._ticks) % HISTORY
        return self._times[rows], rows

    def _suspects(self, usual: FloatArray) -> list[Anomaly]:
        """Return the series that surprised most in the ticks that made the alarm, dated by their change of level."""
        strongest = self._recent.max(axis=0)
        order = np.argsort(-strongest)[: 2 * self.most]
        columns = order[strongest[order] >= SURPRISING]
        times, rows = self._history(HISTORY)
        block = self._ring[np.ix_(rows, columns)].astype(np.float64)
        splits = best_splits(block, min_segment=2)
        named = []
        for at, column in enumerate(columns.tolist()):
            series = self._slots.series[column]
            if series is None or series.label("pid") in self.own:
                continue
            dated = bool(splits.index[at] > 0 and splits.p[at] < 1e-2)
            onset = times[splits.index[at]] if dated else times[-1]
            seen = block[~np.isnan(block[:, at]), at]
            level = float(seen[-1]) if len(seen) else float("nan")
            p = max(10.0 ** -float(strongest[column]), SMALLEST)
            shape: Shape = "shift" if dated else "spike"
            named.append(Anomaly(series, float(onset), p, level, float(usual[column]), shape, ("robust", "extreme")))
        return named[: self.most]

    def _check_rules(self) -> list[Anomaly]:
        version, when = self._compiled
        if version != self._slots.version and self._ticks - when >= COMPILE_EVERY:
            self._rule_slots = self._slots.live
            self._rule_series = [s for s in self._slots.series if s is not None]
            self._rules = Rules(self._rule_series)
            self._compiled = (self._slots.version, self._ticks)
        times, rows = self._history(RULE_WINDOW)
        block = self._ring[np.ix_(rows, self._rule_slots)].astype(np.float64)
        broken: set[Series] = set()
        found = []
        for breach in self._rules.breaches(block):
            series = self._rule_series[breach.column]
            handed_on = series != self._slots.series[int(self._rule_slots[breach.column])]
            if handed_on or series.label("pid") in self.own:
                continue
            broken.add(series)
            if series not in self._broken:
                seen = block[:, breach.column]
                level = float(seen[~np.isnan(seen)][-1])
                onset = float(times[breach.row])
                detail = f"{breach.value:.3g}, {'below' if breach.rule.below else 'above'} {breach.rule.beyond:g}"
                found.append(
                    Anomaly(series, onset, RULE_P, level, float("nan"), breach.rule.shape, ("saturation",), detail)
                )
        self._broken = broken
        return found
