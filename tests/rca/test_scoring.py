"""Curves, posteriors and expected information gain."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.model import Curve
from rca.scoring import entropy, expected_gain, posterior

CURVE = Curve((0.0, -2.0), (0.5, 0.0), (1.0, 3.0))


@pytest.mark.parametrize(("value", "ratio"), [(-1, -2), (0, -2), (0.25, -1), (0.5, 0), (0.75, 1.5), (1, 3), (9, 3)])
def test_a_curve_is_linear_between_its_points_and_flat_outside(value: float, ratio: float) -> None:
    """Values outside the points say no more than the ends."""
    assert CURVE(value) == pytest.approx(ratio)


def test_the_two_outcome_test_of_a_curve_has_its_extreme_ratios() -> None:
    """P(+|present)/P(+|absent) and P(-|present)/P(-|absent) are the curve's ends."""
    present, absent = CURVE.odds
    assert math.log(present / absent) == pytest.approx(3.0)
    assert math.log((1 - present) / (1 - absent)) == pytest.approx(-2.0)


@given(st.floats(0.01, 0.99), st.lists(st.floats(-5, 5), max_size=6))
def test_a_posterior_is_a_probability_and_grows_with_support(prior: float, ratios: list[float]) -> None:
    """Never 0 or 1; one more supporting answer never lowers it."""
    p = posterior(prior, ratios)
    assert 0.0 < p < 1.0
    assert posterior(prior, [*ratios, 1.0]) >= p


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_information_is_never_expected_to_be_lost(p: float, present: float, absent: float) -> None:
    """Expected gain lies between nothing and the whole entropy."""
    assert -1e-9 <= expected_gain(p, present, absent) <= entropy(p) + 1e-9


def test_a_test_that_answers_alike_either_way_tells_nothing() -> None:
    """The planner must not spend calls on it."""
    assert expected_gain(0.3, 0.7, 0.7) == pytest.approx(0.0, abs=1e-12)
