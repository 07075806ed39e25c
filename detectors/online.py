"""The watch daemon's detection, one tick at a time: when to call a round, and what to show it first.

Two levels of the same two detectors. For every series: robust distance, made a tail probability by its own past. The
host's number is the mean of its three most surprising series, made a tail probability by the host's own past, so
that a host whose series often jump together is not alarmed by it. An alarm needs persistence and a surprise over
the bar that the alarm budget sets. Rules on limits and errors speak beside that, once when they begin to be broken.

Cannot know: slow drifts (everything is learnt at once), anything in the first minutes, or the cause.

Cost: see ``python -m benchmarks.detectors``; 1,000 series take about 0.3 ms of CPU a tick.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from detectors.changepoint import best_splits
from detectors.extreme import ExtremeTail
from detectors.fusion import AlarmBudget, Persistence, merge, top_mean
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
        self.budget = AlarmBudget(per_day, tick)
        self._slots = Slots(catalogue)
        self._distance = RobustLevel()
        self._tail = ExtremeTail()
        self._host = ExtremeTail()
        self._persistence = Persistence(self.budget.k, self.budget.n)
        self._ring = np.full((HISTORY, 0), np.nan, np.float32)
        self._times = np.full(HISTORY, np.nan)
        self._recent = np.zeros((self.budget.n, 0))
        self._ticks = 0
        self._quiet_until = -np.inf
        self._clock = np.nan
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
        surprises = self._tail.update(self._distance.update(levels))
        usual = np.concatenate([usual, np.full(len(levels) - len(usual), np.nan)])
        with np.errstate(invalid="ignore"):
            small = np.abs(levels - usual) < self._slots.least
        surprises[small & ~np.isnan(surprises)] = 0.0
        self._remember(frame, levels, surprises)

        elapsed = frame.clock - self._clock
        self._clock = frame.clock
        if elapsed > 0:
            self.budget.rest(elapsed)
        found = self._alarm(frame, usual, surprises)
        if self._ticks % RULES_EVERY == 0:
            found += self._check_rules()
        return merge(found) if found else []

    def _make_room(self, fresh: IntArray) -> None:
        """Blank what slots that changed hands remember, and widen where there are new ones."""
        size, known = len(self._slots), self._ring.shape[1]
        reused = fresh[fresh < known]
        if len(reused):
            self._distance.forget(reused)
            self._tail.forget(reused)
            self._ring[:, reused] = np.nan
            self._recent[:, reused] = 0.0
        if size > known:
            self._ring = np.pad(self._ring, ((0, 0), (0, size - known)), constant_values=np.nan)
            self._recent = np.pad(self._recent, ((0, 0), (0, size - known)))

    def _remember(self, frame: Frame, levels: FloatArray, surprises: FloatArray) -> None:
        row = self._ticks % HISTORY
        self._ring[row] = levels
        self._times[row] = frame.time
        self._recent[self._ticks % self.budget.n] = np.nan_to_num(surprises)
        self._ticks += 1

    def _history(self, ticks: int) -> tuple[FloatArray, IntArray]:
        """Return the times and rows of the last `ticks`, oldest first."""
        rows = np.arange(max(self._ticks - ticks, 0), self._ticks) % HISTORY
        return self._times[rows], rows

    def _alarm(self, frame: Frame, usual: FloatArray, surprises: FloatArray) -> list[Anomaly]:
        host = self._host.update(np.array([top_mean(surprises)]))
        with np.errstate(invalid="ignore"):
            flagged = host >= self.budget.bar
        if not self._persistence.update(flagged)[0]:
            return []
        if frame.clock < self._quiet_until:
            self._quiet_until = frame.clock + self.cooldown  # the same trouble goes on
            return []
        self._quiet_until = frame.clock + self.cooldown
        self.budget.spend()
        strongest = self._recent.max(axis=0)
        order = np.argsort(-strongest)[: 2 * self.most]
        columns = order[strongest[order] >= SURPRISING]
        return self._name(columns, strongest, usual)[: self.most]

    def _name(self, columns: IntArray, strongest: FloatArray, usual: FloatArray) -> list[Anomaly]:
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
        return named

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
