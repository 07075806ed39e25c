"""Asks every question of every suspect, as a round without a budget would."""

from __future__ import annotations

from rca.case import Case
from rca.conclude import Conclusion, conclude
from rca.faults import all_models
from rca.view import View
from wardround.models.observation import Observation


def case_of(observation: Observation) -> Case:
    case = Case(View(observation), all_models())
    while tests := case.tests():
        for test in tests:
            case.run(test)
    return case


def judge(observation: Observation) -> Conclusion:
    return conclude(case_of(observation))


def first(observation: Observation) -> tuple[str, str, int | None, str]:
    """(fault, culprit's name, pid, verdict) of what is believed first."""
    top = judge(observation).hypotheses[0]
    return top.fault, top.culprit.name, top.culprit.pid, top.verdict
