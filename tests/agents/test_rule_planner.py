"""The rule planner asks what tells most, leaves what cannot matter, and comes to an end."""

from __future__ import annotations

from collections.abc import Callable

from agents.rule_planner import RulePlanner, worthwhile
from rca import case as cases
from rca.case import Case
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View
from tests.agents import observations
from wardround.models.diagnosis import Culprit


def _says(value: float) -> Callable[[View, Culprit], Finding]:
    def measure(view: View, culprit: Culprit) -> Finding:
        return Finding(value, f"it is {value:g}", {"value": value}, "1", "true", "test")

    return measure


def _model(fault: str, prior: float, **features: tuple[float, Curve]) -> FaultModel:
    asked = tuple(
        Feature(name, f"metric.{name}", _says(value), curve, needed=True) for name, (value, curve) in features.items()
    )
    return FaultModel(
        fault, "host", prior, lambda view: [Culprit("host", "h")], asked, lambda culprit, findings: f"{fault} is there"
    )


STRONG = Curve((0.0, -4.0), (1.0, 4.0))
WEAK = Curve((0.0, -0.1), (1.0, 0.1))


def _case(*models: FaultModel) -> Case:
    return Case(View(observations.healthy()), models)


def test_the_most_telling_question_of_a_suspect_comes_first() -> None:
    case = _case(_model("cpu.saturation", 0.1, weak=(1.0, WEAK), strong=(1.0, STRONG)))
    assert [test.tool for test in worthwhile(case)] == ["metric.strong"]


def test_a_suspect_that_cannot_become_probable_is_not_asked_about() -> None:
    case = _case(_model("cpu.saturation", 0.01, weak=(1.0, WEAK), faint=(1.0, WEAK)))
    assert worthwhile(case) == []


def test_a_standing_suspect_gets_every_question() -> None:
    """What could still speak against it must have been asked before it is believed."""
    case = _case(_model("cpu.saturation", 0.5, weak=(1.0, WEAK), strong=(1.0, STRONG)))
    assert {test.tool for test in worthwhile(case)} == {"metric.strong", "metric.weak"}


def test_it_comes_to_an_end_with_nothing_worth_asking() -> None:
    case = _case(
        _model("cpu.saturation", 0.1, a=(1.0, STRONG), b=(1.0, STRONG), c=(0.0, WEAK)),
        _model("cpu.steal", 0.1, a=(0.0, STRONG), d=(0.0, STRONG)),
    )
    planner = RulePlanner()
    visits = 0
    while not (plan := planner.next(case, {}, 10.0)).done:
        visits += 1
        for call in plan.calls:
            for key in call["arguments"]["candidates"]:
                names = [f.name for f in case.candidates[key].model.features if f.tool == call["tool"]]
                case.run(cases.Test(call["tool"], key, tuple(names), 0.0))
    assert 1 <= visits <= 3
    assert case.ranked()[0].model.fault == "cpu.saturation"
    assert case.ranked()[0].probability > 0.9
