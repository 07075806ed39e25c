"""Statistics of a window: change points, trends and their tails, on quiet, noisy, short, long and holed series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detectors.changepoint import best_splits
from detectors.levels import detection_levels
from detectors.statistics import count_tail, median, normal_tail, student_tail
from detectors.trend import slopes, time_to
from wardround.models.series import Series, Window


def ar1(rng: np.random.Generator, ticks: int, size: int, phi: float) -> np.ndarray:
    out = rng.normal(size=(ticks + 50, size))
    for t in range(1, len(out)):
        out[t] += phi * out[t - 1]
    return out[50:]


NOISES = {
    "normal": lambda rng, t, s: rng.normal(10, 1, (t, s)),
    "student": lambda rng, t, s: rng.standard_t(2, (t, s)),
    "lognormal": lambda rng, t, s: rng.lognormal(0, 1.5, (t, s)),
    "counts": lambda rng, t, s: rng.poisson(3, (t, s)).astype(float),
    "spikes": lambda rng, t, s: (rng.random((t, s)) < 0.1) * rng.lognormal(3, 1, (t, s)),
    "correlated": lambda rng, t, s: ar1(rng, t, s, 0.5),
}


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("ticks", [9, 29, 120])
def test_change_points_in_noise_are_rare(kind: str, ticks: int) -> None:
    """At p < 1e-4, 5,000 noisy series must bring at most ten findings: heavy tails and correlation included."""
    noise = NOISES[kind](np.random.default_rng(11), ticks, 5000)
    assert (best_splits(noise).p < 1e-4).sum() <= 10


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("ticks", [9, 29, 120])
def test_trends_in_noise_are_rare(kind: str, ticks: int) -> None:
    noise = NOISES[kind](np.random.default_rng(12), ticks, 5000)
    assert (slopes(noise, np.arange(float(ticks))).p < 1e-4).sum() <= 3


def test_a_random_walk_is_no_trend() -> None:
    walk = np.cumsum(np.random.default_rng(13).normal(size=(60, 5000)), axis=0)
    assert (slopes(walk, np.arange(60.0)).p < 1e-3).mean() < 2e-3


@pytest.mark.parametrize("ticks", [10, 30, 300, 900])
def test_a_change_is_dated(ticks: int) -> None:
    values = np.random.default_rng(1).normal(10, 1, (ticks, 200))
    at = ticks * 2 // 3
    values[at:] += 20
    found = best_splits(values)
    assert np.mean(np.abs(found.index - at) <= 1) > 0.98
    assert np.mean(found.p < 1e-3) > 0.6
    assert np.median(found.after - found.before) == pytest.approx(20, abs=1)


def test_one_spike_is_no_change_of_level() -> None:
    values = np.random.default_rng(2).normal(10, 1, (30, 500))
    values[15] += 100
    assert (best_splits(values).p > 1e-3).all()


def test_a_change_across_a_gap_is_found_among_what_was_seen() -> None:
    values = np.random.default_rng(3).normal(10, 0.5, (40, 2))
    values[20:] += 15
    values[12:20, 0] = np.nan
    values[::2, 1] = np.nan
    found = best_splits(values)
    assert (found.p < 1e-4).all()
    assert found.index[0] == 20
    assert found.index[1] in (20, 21)


def test_too_few_values_bring_no_opinion() -> None:
    assert (best_splits(np.ones((4, 3))).p == 1).all()
    empty = best_splits(np.full((30, 2), np.nan))
    assert (empty.p == 1).all()
    assert (empty.index == -1).all()
    assert best_splits(np.empty((30, 0))).p.shape == (0,)


def test_large_levels_keep_their_precision() -> None:
    """A shift of 1 MiB in a series about 1 TiB."""
    values = 2.0**40 + np.random.default_rng(4).normal(0, 2**10, (30, 1))
    values[15:] += 2**20
    assert best_splits(values, floor=0.0).p[0] < 1e-6


def test_a_leak_is_a_trend_and_a_step_is_not() -> None:
    rng, clock = np.random.default_rng(5), np.arange(30.0)
    values = rng.normal(0, 0.3, (30, 2))
    values[:, 0] += 2 * clock
    values[15:, 1] += 60
    found = slopes(values, clock)
    assert found.p[0] < 1e-4
    assert found.p[1] > 1e-2
    assert found.slope[0] == pytest.approx(2, abs=0.1)


def test_a_quarter_of_wrong_values_does_not_turn_the_slope() -> None:
    rng, clock = np.random.default_rng(6), np.arange(60.0)
    values = (3 * clock + rng.normal(0, 1, 60))[:, None]
    values[rng.choice(60, 10, replace=False)] = 0
    assert slopes(values, clock).slope[0] == pytest.approx(3, rel=0.2)


def test_time_to_exhaustion() -> None:
    limit, level, slope = np.array([100.0] * 4), np.array([90.0, 90, 100, 90]), np.array([2.0, -1, 0, 0])
    assert time_to(limit, level, slope).tolist() == [5.0, np.inf, 0.0, np.inf]


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 40), st.integers(0, 4)),
        elements=st.floats(-1e15, 1e15) | st.just(np.nan),
    )
)
def test_any_window_gives_probabilities(values: np.ndarray) -> None:
    for p in (best_splits(values).p, slopes(values, np.arange(float(len(values)))).p):
        assert p.shape == (values.shape[1],)
        assert ((p >= 0) & (p <= 1)).all()


def test_medians_leave_gaps_out() -> None:
    values = np.array([[1.0, np.nan, 4], [3, np.nan, np.nan], [2, np.nan, 8]])
    np.testing.assert_array_equal(median(values), [2, np.nan, 6])


def test_tails_agree_with_tables() -> None:
    np.testing.assert_allclose(normal_tail(np.array([0, 1, 3, 6.0])), [0.5, 0.158655, 1.3499e-3, 9.8659e-10], rtol=4e-3)
    # two-sided Student quantiles: t(.975, 5), t(.9995, 10), t(.99995, 8)
    np.testing.assert_allclose(student_tail(np.array([2.5706]), 5.0), [0.05], rtol=0.02)
    np.testing.assert_allclose(student_tail(np.array([4.5869]), 10.0), [1e-3], rtol=0.04)
    np.testing.assert_allclose(student_tail(np.array([7.1200]), 8.0), [1e-4], rtol=0.08)


def test_count_tails() -> None:
    # a Gamma shape of 1 makes the count geometric: P(C >= n) = (odds / (1 + odds)) ** n
    assert count_tail(3, 1.0, 1.0) == pytest.approx(1 / 8)
    assert count_tail(60, 1.0, 0.25) == pytest.approx(0.2**60, rel=1e-2)
    # a large shape makes it Poisson: P(C >= 10 | mean 2) = 4.65e-5
    assert count_tail(10, 1e7, 2e-7) == pytest.approx(4.65e-5, rel=1e-2)
    assert count_tail(0, 1.0, 1.0) == 1


def test_a_slow_counter_has_rates_since_its_last_reading() -> None:
    values = np.full((11, 2), np.nan)
    values[::5, 0] = [0, 50, 100]
    values[:, 1] = np.arange(11)
    window = Window(np.arange(11.0), np.arange(11.0), values, (Series("system.context_switches"), Series("linux.mce")))
    levels = detection_levels(window)
    assert levels[[5, 10], 0].tolist() == [10, 10]
    assert np.isnan(levels[1:5, 0]).all()
    assert (levels[1:, 1] == 1).all()
