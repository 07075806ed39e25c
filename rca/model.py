"""What a fault model declares: suspects, the questions that raise or lower it, what it causes, what treats it.

A model is data. It decides nothing by itself: `rca.case` asks its questions, `rca.scoring` adds up the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rca.view import View
from wardround.models.diagnosis import Culprit, CulpritKind, EvidenceKind, Number, SeverityLevel, Trust


@dataclass(frozen=True)
class Curve:
    """Log-likelihood ratio of "fault present" against "absent" as a function of a measured value.

    Piecewise linear through `points` ``(value, ln ratio)``, values ascending, flat outside.

    >>> Curve((0.0, -2.0), (1.0, 2.0))(0.5)
    0.0
    """

    points: tuple[tuple[float, float], ...]

    def __init__(self, *points: tuple[float, float]) -> None:
        object.__setattr__(self, "points", points)

    def __call__(self, value: float) -> float:
        before: tuple[float, float] | None = None
        for x, y in self.points:
            if value <= x:
                if before is None or x == before[0]:
                    return y
                return before[1] + (y - before[1]) * (value - before[0]) / (x - before[0])
            before = (x, y)
        return self.points[-1][1]

    @cached_property
    def support(self) -> float:
        """The most this answer can speak for the fault."""
        return max(y for _, y in self.points)

    @cached_property
    def against(self) -> float:
        """The most this answer can speak against it (negative)."""
        return min(y for _, y in self.points)

    @cached_property
    def odds(self) -> tuple[float, float]:
        """``(P(positive | present), P(positive | absent))`` of the two-outcome test with the same extreme ratios."""
        up, down = math.exp(max(self.support, 0.05)), math.exp(min(self.against, -0.05))
        absent = (1.0 - down) / (up - down)
        return absent * up, absent


@dataclass(frozen=True)
class Finding:
    """The answer to one question about one culprit. `value` goes into the feature's curve.

    Every number told in `statement` is in `values` or `baseline`. `series` are the metrics behind it; `onset` is
    when it began (Unix seconds) where that can be told.
    """

    value: float
    statement: str
    values: Mapping[str, Number]
    unit: str
    reproduce: str
    source: str
    kind: EvidenceKind = "metric"
    trust: Trust = "kernel"
    baseline: Mapping[str, Number] = field(default_factory=dict)
    series: tuple[str, ...] = ()
    onset: float | None = None


Measure = Callable[[View, Culprit], Finding | None]


@dataclass(frozen=True)
class Feature:
    """One question of a fault model.

    `tool` is who answers it, ``<specialist>.<tool>``. A `needed` question must be answered in favour before the fault
    is confirmed; `ask` says in words what would confirm it.
    """

    name: str
    tool: str
    measure: Measure
    curve: Curve
    needed: bool = False
    ask: str = ""

    @property
    def specialist(self) -> str:
        return self.tool.partition(".")[0]


@dataclass(frozen=True)
class FaultModel:
    """One fault of the taxonomy.

    `suspects` names culprits worth asking about, most suspicious first (statistics find); `headline` tells the
    cause in a sentence from the culprit and the findings by feature name. `symptoms` are faults that this one brings
    about in entities related to its culprit; `effects` metrics it moves. `chain` is the causal chain in words.
    """

    fault: str
    culprit: CulpritKind
    prior: float
    suspects: Callable[[View], Sequence[Culprit]]
    features: tuple[Feature, ...]
    headline: Callable[[Culprit, Mapping[str, Finding]], str]
    symptoms: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()
    severity: SeverityLevel = "critical"
    actions: tuple[str, ...] = ()

    def feature(self, name: str) -> Feature:
        return next(f for f in self.features if f.name == name)
