"""Saturation and error rules over all series at once: what is at its limit, and what should never happen but does.

Decides by the table in `detectors.rules`: the mean over the window, or over its later half where that is worse,
against the rule. Needs no baseline, so it is right on the first look at a host. Cannot know whether a limit
is meant to be reached (a cache that fills its cgroup on purpose).

Cost: to compile for 3,000 series 6 ms, once for each set of series; to evaluate under 1 ms of CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.rules import RULES, Part, Rule
from wardround.models.series import FloatArray, Series

Which = slice | NDArray[np.int64]

RULE_P = 1e-6  # a rule has no tail probability: this ranks it among what is sure without outranking all else


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a series breaks: its `column`, the `value` against `rule.beyond`, the first `row` beyond it."""

    column: int
    rule: Rule
    value: float
    row: int


class Rules:
    """The rules that apply to a set of series, as arrays of columns.

    >>> usage, limit = Series.of("linux.tasks.count"), Series.of("linux.tasks.limit")
    >>> rules = Rules([usage, limit])
    >>> [(b.column, round(b.value, 2), b.row) for b in rules.breaches(np.array([[50.0, 100], [95, 100], [99, 100]]))]
    [(0, 0.97, 1)]
    """

    def __init__(self, series: Sequence[Series], table: Sequence[Rule] = RULES) -> None:
        self._rules: list[Rule] = []
        self._top: list[int] = []
        self._bottom: list[list[int]] = []
        by_name: dict[str, list[int]] = {}
        for column, one in enumerate(series):
            by_name.setdefault(one.name, []).append(column)
        for rule in table:
            if by_name.keys() >= {rule.top[0], *(name for name, _ in rule.bottom)}:
                self._join(rule, series, by_name)
        width = max((len(columns) for columns in self._bottom), default=0)
        self._ratio = np.array([bool(columns) for columns in self._bottom], dtype=bool)
        self._top_columns = np.array(self._top, dtype=np.int64)
        # -1 is a column of zeros
        self._bottom_columns = np.array(
            [columns + [-1] * (width - len(columns)) for columns in self._bottom], dtype=np.int64
        ).reshape(len(self._rules), width)
        self._beyond = np.array([rule.beyond for rule in self._rules])
        self._below = np.array([rule.below for rule in self._rules], dtype=bool)
        self._least = np.array([rule.least for rule in self._rules])

    def _join(self, rule: Rule, series: Sequence[Series], by_name: dict[str, list[int]]) -> None:
        indexes = [_index(part, series, by_name) for part in rule.bottom]
        for column in by_name[rule.top[0]]:
            labels = dict(series[column].labels)
            if not set(rule.top[1]) <= set(labels.items()):
                continue
            bottom = []
            for keys, index in indexes:
                found = index.get(tuple(labels.get(key, "") for key in keys))
                if found is None:
                    break
                bottom.append(found)
            else:
                self._rules.append(rule)
                self._top.append(column)
                self._bottom.append(bottom)

    def limits(self) -> dict[int, list[int]]:
        """Return ``{column: columns whose sum is its limit}`` of the rules that fill something up."""
        return {
            top: bottom
            for rule, top, bottom in zip(self._rules, self._top, self._bottom, strict=True)
            if bottom and not rule.below and not rule.least
        }

    def breaches(self, levels: FloatArray) -> list[Breach]:
        """Return what is broken in ``[T, S]`` levels (counters as rates), in the table's order."""
        if not self._rules or not len(levels):
            return []
        top = levels[:, self._top_columns]
        bottom = self._sum_bottom(levels)
        half = len(levels) // 2
        whole = self._value(_mean(top), _mean(bottom), slice(None))
        late = self._value(_mean(top[half:]), _mean(bottom[half:]), slice(None))
        value = np.where(self._below, np.fmin(whole, late), np.fmax(whole, late))
        broken = np.flatnonzero(self._is_beyond(value, slice(None)))
        path = self._is_beyond(self._value(top[:, broken], bottom[:, broken], broken), broken)
        rows = path.argmax(axis=0)  # 0 where only the mean is beyond
        return [
            Breach(self._top[entity], self._rules[entity], float(value[entity]), int(row))
            for entity, row in zip(broken.tolist(), rows.tolist(), strict=True)
        ]

    def _sum_bottom(self, levels: FloatArray) -> FloatArray:
        if not self._bottom_columns.shape[1]:
            return np.ones((len(levels), len(self._rules)))
        parts = levels[:, self._bottom_columns]
        parts[:, self._bottom_columns < 0] = 0.0
        total: FloatArray = np.where(self._ratio, parts.sum(axis=2), 1.0)
        return total

    def _value(self, top: FloatArray, bottom: FloatArray, at: Which) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            enough = (bottom > 0) & (bottom >= self._least[at])
            return np.where(enough, top / bottom, np.nan)

    def _is_beyond(self, value: FloatArray, at: Which) -> NDArray[np.bool_]:
        beyond = self._beyond[at]
        with np.errstate(invalid="ignore"):
            return np.where(self._below[at], value < beyond, value > beyond)


def _index(
    part: Part, series: Sequence[Series], by_name: dict[str, list[int]]
) -> tuple[tuple[str, ...], dict[tuple[str, ...], int]]:
    """Index the columns of a part by the labels that the part leaves open."""
    name, fixed = part
    keys: tuple[str, ...] = ()
    index: dict[tuple[str, ...], int] = {}
    for column in by_name[name]:
        labels = dict(series[column].labels)
        if set(fixed) <= set(labels.items()):
            keys = tuple(key for key in labels if key not in dict(fixed))
            index[tuple(labels[key] for key in keys)] = column
    return keys, index


def _mean(values: FloatArray) -> FloatArray:
    seen = ~np.isnan(values)
    count = np.count_nonzero(seen, axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
