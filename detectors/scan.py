"""The one-shot look: what is unusual in this window, from the window itself, the baseline and the logs before it.

Decides by four independent looks: in-window change of level, in-window trend, distance from the baseline where the
history gives one, and the rules on limits and errors; then log templates. A statistical finding must be improbable
(a threshold derived from a budget of false alarms per scan) and large enough to matter (`detectors.material`).

Cannot know what was already wrong before the window started where there is no baseline: then only the rules speak.

Cost: 30 ticks of 3,000 series 14 ms of CPU, 5,000 log lines 48 ms more (``python -m benchmarks.detectors``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.changepoint import Splits, best_splits
from detectors.fusion import merge, threshold
from detectors.levels import detection_levels
from detectors.material import is_material, smallest_changes
from detectors.saturation import RULE_P, Rules
from detectors.statistics import median, student_tail
from detectors.templates import findings
from detectors.trend import Slopes, slopes, time_to
from wardround.models.anomaly import Anomaly
from wardround.models.observation import Observation
from wardround.models.series import Baseline, FloatArray, Series, Window

BASELINE_FREEDOM = 5.0  # a host's levels wander from hour to hour: the tail of its own past is heavy
FEWEST_TESTS = 100  # so few series move on an idle host that the threshold would be lax
TEMPLATE_LENGTH = 160


def scan(observation: Observation, false_alarms: float = 0.1, most: int = 200) -> list[Anomaly]:
    """Return the anomalies of one observation, the most surprising first, at most `most`.

    `false_alarms` is how many a scan of a healthy host may bring on average. Our own processes are left out.
    """
    found = [*_metrics(observation, false_alarms / 2), *_logs(observation, false_alarms / 2)]
    return merge(found)[:most]


def scan_window(window: Window, baseline: Baseline | None = None, false_alarms: float = 0.1) -> list[Anomaly]:
    """Return the anomalies of a window alone, merged, the most surprising first."""
    usual = baseline if baseline is not None else Baseline.unknown(len(window.series))
    return merge(_Look(window, usual, np.ones(len(window.series), dtype=bool), false_alarms).all())


def _metrics(observation: Observation, false_alarms: float) -> Iterator[Anomaly]:
    window = observation.window
    own = {str(pid) for pid in observation.own_pids}
    wanted = np.array([series.label("pid") not in own for series in window.series], dtype=bool)
    return _Look(window, observation.baseline, wanted, false_alarms).all()


@dataclass
class _Look:
    """One window under all detectors. `wanted` ``[S]`` are the columns to look at."""

    window: Window
    baseline: Baseline
    wanted: NDArray[np.bool_]
    false_alarms: float

    def all(self) -> Iterator[Anomaly]:
        if not len(self.window.times) or not self.window.series:
            return
        levels = detection_levels(self.window)
        rules = Rules(self.window.series)
        yield from self._rules(rules, levels)
        least = smallest_changes(self.window.series)
        with np.errstate(invalid="ignore"):
            moved = np.fmax.reduce(levels, axis=0) - np.fmin.reduce(levels, axis=0) >= least
        columns = np.flatnonzero(moved & self.wanted & np.isfinite(least))
        part = levels[:, columns]
        split, slope = best_splits(part), slopes(part, self.window.clock)
        limit = threshold(self.false_alarms, 3 * max(len(columns), FEWEST_TESTS))
        for at in np.flatnonzero(np.fmin(split.p, slope.p) <= limit):
            column = int(columns[at])
            yield from self._change(column, int(at), split, slope, limit, float(least[column]), rules, levels)
        yield from self._against_baseline(levels, least, limit)

    def _rules(self, rules: Rules, levels: FloatArray) -> Iterator[Anomaly]:
        for breach in rules.breaches(levels):
            if self.wanted[breach.column]:
                rule = breach.rule
                sense = "below" if rule.below else "above"
                told = f"{breach.value:.3g} of its limit" if rule.bottom else f"{breach.value:.3g}"
                yield Anomaly(
                    self.window.series[breach.column],
                    float(self.window.times[breach.row]),
                    RULE_P,
                    _last(levels[:, breach.column]),
                    self._usual(breach.column),
                    rule.shape,
                    ("saturation",),
                    f"{told}, {sense} {rule.beyond:g}",
                )

    def _change(
        self, column: int, at: int, split: Splits, slope: Slopes, limit: float, least: float, rules: Rules,
        levels: FloatArray,
    ) -> Iterator[Anomaly]:  # fmt: skip
        """Yield a trend or a shift, whichever leaves less of the series unexplained."""
        series, times = self.window.series[column], self.window.times
        travelled = abs(float(slope.slope[at])) * self.window.seconds
        is_trend = slope.p[at] <= limit and travelled >= least and not split.misfit[at] < slope.misfit[at]
        if is_trend:
            start = float(slope.level[at] - slope.slope[at] * self.window.seconds)
            detail = f"{slope.slope[at]:+.3g} per second"
            bottom = rules.limits().get(column)
            if bottom is not None:
                top = np.array([np.nansum(levels[-1, bottom])])
                seconds = float(time_to(top, slope.level[at : at + 1], slope.slope[at : at + 1])[0])
                if np.isfinite(seconds):
                    detail += f", reaches its limit in {seconds:.0f} s"
            onset, level, p, name = float(times[0]), float(slope.level[at]), float(slope.p[at]), "trend"
            yield Anomaly(series, onset, p, level, self._usual(column, start), "trend", (name,), detail)
        elif split.p[at] <= limit:
            before, after = split.before[at : at + 1], split.after[at : at + 1]
            if is_material(before, after, np.array([least]))[0]:
                onset, p = float(times[split.index[at]]), float(split.p[at])
                usual = float(before[0])
                yield Anomaly(series, onset, p, float(after[0]), usual, "shift", ("changepoint",))

    def _against_baseline(self, levels: FloatArray, least: FloatArray, limit: float) -> Iterator[Anomaly]:
        base = self.baseline
        known = self.wanted & np.isfinite(least) & (base.count > 0)
        columns = np.flatnonzero(known & np.isfinite(base.level) & np.isfinite(base.scale))
        if not len(columns):
            return
        now = median(levels[:, columns])
        level, scale = base.level[columns], base.scale[columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(now - level) / (scale + 0.02 * np.abs(level) + 1e-12)
            p = student_tail(np.nan_to_num(distance), BASELINE_FREEDOM)
        for at in np.flatnonzero((p <= limit) & is_material(level, now, least[columns])):
            column = columns[at]
            yield Anomaly(
                self.window.series[column],
                float(self.window.times[0]),
                float(p[at]),
                float(now[at]),
                float(level[at]),
                "shift",
                ("baseline",),
                "already so when the window began",
            )

    def _usual(self, column: int, otherwise: float = float("nan")) -> float:
        level = float(self.baseline.level[column])
        return level if np.isfinite(level) else otherwise


def _logs(observation: Observation, false_alarms: float) -> Iterator[Anomaly]:
    found = findings(observation.logs, observation.start, observation.end)
    limit = threshold(false_alarms, max(len(found), 1))
    seconds = max(observation.end - observation.start, 1e-9)
    for one in found:
        if one.p <= limit:
            yield Anomaly(
                Series.of(
                    "wardround.log.records", source=one.source, unit=one.unit, template=one.template[:TEMPLATE_LENGTH]
                ),
                one.onset,
                one.p,
                one.count / seconds,
                one.usual,
                one.shape,
                ("templates",),
                one.example[:TEMPLATE_LENGTH],
            )


def _last(values: FloatArray) -> float:
    seen = values[~np.isnan(values)]
    return float(seen[-1]) if len(seen) else float("nan")
