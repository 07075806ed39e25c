"""Judges diagnosis documents against injected faults: named or not, culprit, false alarms, calibration.

Pure functions over documents of `wardround.diagnosis/v1`; nothing is injected or run here. It cannot judge whether the
evidence shown is good evidence, only whether the conclusion is the injected fault.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.faults.scenario import Truth

HEALTHY = "healthy"
BELIEVED = ("confirmed", "likely")
ALARM = 0.5
"""A hypothesis of at least this probability on a healthy host is a false alarm, whatever the status says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, judged. `forecasts` are pairs of probability and whether that fault was really there."""

    scenario: str
    faults: tuple[str, ...]
    status: str
    named: tuple[str, ...]
    top1: bool
    top3: bool
    culprit: bool
    false_alarm: bool
    probability: float
    seconds: float
    after_window_s: float
    held: bool
    forecasts: tuple[tuple[float, bool], ...]
    top_forecast: tuple[float, bool] | None
    extra: tuple[str, ...] = ()
    """Faults believed (probability of an alarm or more) that were neither injected nor symptoms of what was."""
    error: str = ""

    @property
    def right(self) -> bool:
        """The figure's definition: the right fault first, with the right culprit; on a healthy host no alarm."""
        return not self.false_alarm if not self.faults else self.top1 and self.culprit

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"right": self.right}


def score(
    scenario: str, truths: Sequence[Truth], document: dict[str, Any], *, seconds: float, window: float, held: bool
) -> Outcome:
    """Judge one document. Raises KeyError or TypeError when it is not a diagnosis document."""
    hypotheses: list[dict[str, Any]] = document["hypotheses"]
    status = str(document["status"])
    named = tuple(str(h["fault"]) for h in hypotheses)
    faults = tuple(t.fault for t in truths)
    forecasts, top_forecast = _forecasts(truths, hypotheses)
    known = {f for t in truths for f in (t.fault, *t.symptoms)}
    first = {h["fault"]: h for h in reversed(hypotheses)}
    top = hypotheses[: max(1, len(truths))]
    found = status == "problem" and all(any(h["fault"] == t.fault for h in top) for t in truths)
    if len(truths) > 1:
        found = found and all(h["verdict"] in BELIEVED for h in top)
    return Outcome(
        scenario=scenario,
        faults=faults,
        status=status,
        named=named,
        top1=bool(truths) and found,
        top3=bool(truths) and set(faults) <= set(named[:3]),
        culprit=bool(truths) and all(t.accepts(first.get(t.fault, {}).get("culprit")) for t in truths),
        false_alarm=not truths and (status != "ok" or any(h["probability"] >= ALARM for h in hypotheses)),
        probability=min((float(first[f]["probability"]) if f in first else 0.0 for f in faults), default=0.0),
        seconds=seconds,
        after_window_s=seconds - window,
        held=held,
        forecasts=forecasts,
        top_forecast=top_forecast,
        extra=tuple(h["fault"] for h in hypotheses if h["fault"] not in known and h["probability"] >= ALARM),
    )


def failed(scenario: str, truths: Sequence[Truth], error: str, *, seconds: float, window: float) -> Outcome:
    """The outcome of a run that gave no document: everything wrong."""
    faults = tuple(t.fault for t in truths)
    missed = tuple((0.0, True) for _ in truths)
    return Outcome(
        scenario, faults, "error", (), False, False, False, not truths, 0.0, seconds, seconds - window, True,
        missed, None, (), error,
    )  # fmt: skip


def _forecasts(
    truths: Sequence[Truth], hypotheses: Sequence[dict[str, Any]]
) -> tuple[tuple[tuple[float, bool], ...], tuple[float, bool] | None]:
    """Probability against truth for each fault id reported, and 0 for a fault that was there and is not reported.

    A symptom that truly holds beside the fault is neither right nor wrong as a cause, so it is left out.
    """
    there = {t.fault for t in truths}
    beside = set[str]().union(*(t.symptoms for t in truths)) - there if truths else set()
    highest: dict[str, float] = {}
    for hypothesis in hypotheses:
        fault = hypothesis["fault"]
        highest[fault] = max(highest.get(fault, 0.0), float(hypothesis["probability"]))
    judged = {fault: (p, fault in there) for fault, p in highest.items() if fault not in beside}
    missed = tuple((0.0, True) for fault in there if fault not in highest)
    top = judged.get(hypotheses[0]["fault"]) if hypotheses else None
    return tuple(judged.values()) + missed, top


def brier(forecasts: Sequence[tuple[float, bool]]) -> float:
    """Mean squared distance of probability and truth; NaN without forecasts."""
    if not forecasts:
        return math.nan
    return sum((p - there) ** 2 for p, there in forecasts) / len(forecasts)


def calibration_error(forecasts: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error over equal-width bins: weighted |share that was true - mean probability|."""
    if not forecasts:
        return math.nan
    parts: dict[int, list[tuple[float, bool]]] = {}
    for p, there in forecasts:
        parts.setdefault(min(int(p * bins), bins - 1), []).append((p, there))
    gaps = (abs(sum(there for _, there in part) - sum(p for p, _ in part)) for part in parts.values())
    return sum(gaps) / len(forecasts)


def confusion(outcomes: Sequence[Outcome]) -> Counter[tuple[str, str]]:
    """How often each injected fault (or HEALTHY) was answered by which first hypothesis.

    With two injected faults each is paired with itself where it is among the first two, else with what stands there.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        answers = list(outcome.named) if outcome.status == "problem" else []
        if not outcome.faults:
            pairs[HEALTHY, answers[0] if answers else _silence(outcome)] += 1
            continue
        top = answers[: len(outcome.faults)]
        wrong = [name for name in top if name not in outcome.faults]
        for fault in outcome.faults:
            pairs[fault, fault if fault in top else (wrong.pop(0) if wrong else _silence(outcome))] += 1
    return pairs


def _silence(outcome: Outcome) -> str:
    return HEALTHY if outcome.status == "ok" else f"({outcome.status})"


@dataclass(frozen=True, slots=True)
class Totals:
    """The figures of a whole bench; shares are of fault runs, None where there were none."""

    fault_runs: int
    right: float | None
    top1: float | None
    top3: float | None
    culprit: float | None
    extra: float | None
    """Share of fault runs in which some other fault was believed as well."""
    healthy_runs: int
    false_alarms: int
    brier_all: float
    brier_top: float
    ece_all: float
    ece_top: float
    after_window_median_s: float
    after_window_max_s: float
    seconds_max: float
    spread: int
    """Scenarios whose runs did not all end the same."""


def totals(outcomes: Sequence[Outcome]) -> Totals:
    """Sum up; raises ValueError without outcomes."""
    if not outcomes:
        raise ValueError("no runs to sum up")
    sick = [o for o in outcomes if o.faults]
    healthy = [o for o in outcomes if not o.faults]

    def share(flag: str) -> float | None:
        return sum(bool(getattr(o, flag)) for o in sick) / len(sick) if sick else None

    every = [pair for o in outcomes for pair in o.forecasts]
    top = [o.top_forecast for o in outcomes if o.top_forecast]
    after = sorted(o.after_window_s for o in outcomes)
    ends: dict[str, set[bool]] = {}
    for o in outcomes:
        ends.setdefault(o.scenario, set()).add(o.right)
    return Totals(
        fault_runs=len(sick),
        right=share("right"),
        top1=share("top1"),
        top3=share("top3"),
        culprit=share("culprit"),
        extra=share("extra"),
        healthy_runs=len(healthy),
        false_alarms=sum(o.false_alarm for o in healthy),
        brier_all=brier(every),
        brier_top=brier(top),
        ece_all=calibration_error(every),
        ece_top=calibration_error(top),
        after_window_median_s=after[len(after) // 2],
        after_window_max_s=after[-1],
        seconds_max=max(o.seconds for o in outcomes),
        spread=sum(len(end) > 1 for end in ends.values()),
    )
