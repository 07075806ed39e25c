"""Every registered detector keeps the contract of `detectors.base`. A new detector is tested by its registration."""

from __future__ import annotations

import doctest
import inspect
import sys

import numpy as np
import pytest

from detectors.base import Detector
from detectors.registry import Factory, factories

DETECTORS = dict(factories())


@pytest.fixture(params=sorted(DETECTORS))
def factory(request: pytest.FixtureRequest) -> Factory:
    return DETECTORS[request.param]


def noise(ticks: int, columns: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 1, (ticks, columns))


def run(detector: Detector, values: np.ndarray) -> np.ndarray:
    return np.array([detector.update(row) for row in values])


def sizes(detector: Detector) -> int:
    return sum(array.nbytes for array in detector.state().values())


def test_scores_have_the_shape_of_the_values_and_are_never_negative(factory: Factory) -> None:
    scores = run(factory(), noise(400, 5))
    assert scores.shape == (400, 5)
    assert (scores[~np.isnan(scores)] >= 0).all()
    assert not np.isnan(scores[-1]).any(), "it has an opinion after 400 values"


def test_input_is_left_as_it_was(factory: Factory) -> None:
    values = noise(50, 3)
    before = values.copy()
    run(factory(), values)
    np.testing.assert_array_equal(values, before)


def test_an_excursion_scores_above_the_usual(factory: Factory) -> None:
    """Ten ticks that climb far away must stand out against 600 ticks of noise, in the column where they are."""
    values = noise(610, 2)
    values[600:, 1] += np.linspace(15, 60, 10)
    scores = run(factory(), values)
    assert np.nanmax(scores[600:, 1]) > 1.5 * np.nanpercentile(scores[:600], 99)
    assert np.nanmax(scores[600:, 1]) > 1.5 * np.nanmax(scores[600:, 0])


def test_constant_input_never_scores(factory: Factory) -> None:
    for constant in (0.0, 1.0, -3.5e9, 1e-12):
        scores = run(factory(), np.full((500, 2), constant))
        assert not np.nan_to_num(scores).any(), constant


def test_a_missing_value_gets_no_finite_alarm_and_changes_nothing_of_its_column(factory: Factory) -> None:
    detector, values = factory(), noise(300, 2)
    run(detector, values)
    gap = np.array([np.nan, 10.0])
    for _ in range(3):
        scores = detector.update(gap)
        assert np.isnan(scores[0]) or scores[0] < 5


def test_infinities_are_gaps(factory: Factory) -> None:
    values = noise(300, 2)
    gaps, infinite = values.copy(), values.copy()
    gaps[::7, 0], infinite[::7, 0] = np.nan, np.inf
    np.testing.assert_array_equal(run(factory(), gaps), run(factory(), infinite))


def test_survives_gaps(factory: Factory) -> None:
    """A long gap in one column leaves the other column's scores exactly as without it; afterwards it goes on."""
    values = noise(400, 2)
    holed = values.copy()
    holed[100:180, 0] = np.nan
    whole, with_gap = run(factory(), values), run(factory(), holed)
    np.testing.assert_array_equal(whole[:, 1], with_gap[:, 1])
    assert not np.isnan(with_gap[-1]).any()


def test_a_column_that_never_speaks_is_no_error(factory: Factory) -> None:
    values = noise(200, 2)
    values[:, 0] = np.nan
    assert not np.nan_to_num(run(factory(), values)[:, 0]).any()


def test_new_columns_start_fresh_and_leave_the_old_alone(factory: Factory) -> None:
    detector, alone, values = factory(), factory(), noise(500, 4)
    narrow = run(detector, values[:250, :2])
    wide = run(detector, values[250:])
    np.testing.assert_array_equal(np.vstack([narrow, wide[:, :2]]), run(alone, values[:, :2]))
    np.testing.assert_array_equal(wide[:, 2:], run(factory(), values[250:, 2:]))


def test_columns_that_went_missing_are_refused(factory: Factory) -> None:
    detector = factory()
    detector.update(np.zeros(3))
    with pytest.raises(ValueError, match="columns are known"):
        detector.update(np.zeros(2))


def test_a_forgotten_column_starts_anew(factory: Factory) -> None:
    detector, values = factory(), noise(400, 2)
    run(detector, values[:200])
    detector.forget(np.array([1]))
    after = run(detector, values[200:])
    # not bit for bit: sums over a block are taken in another order beside another column
    np.testing.assert_allclose(after[:, 1], run(factory(), values[200:, 1:])[:, 0], rtol=1e-9, atol=1e-12)


def test_a_clone_has_the_same_parameters_and_is_independent(factory: Factory) -> None:
    original = factory()
    run(original, noise(200, 2))
    before = {key: array.copy() for key, array in original.state().items()}
    clone = original.clone()
    assert repr(clone) == repr(original)
    run(clone, noise(200, 5, seed=2))
    for key, array in original.state().items():
        np.testing.assert_array_equal(array, before[key])


def test_a_restored_state_scores_bit_for_bit_alike(factory: Factory) -> None:
    original, values = factory(), noise(600, 3)
    run(original, values[:300])
    other = original.clone()
    other.restore(original.state())
    np.testing.assert_array_equal(run(original, values[300:]), run(other, values[300:]))


def test_a_state_is_a_copy_of_plain_arrays(factory: Factory) -> None:
    detector, values = factory(), noise(300, 2)
    run(detector, values)
    state = detector.state()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in state.values())
    for array in state.values():
        array[...] = 0
    twin = factory()
    run(twin, values)
    np.testing.assert_array_equal(detector.update(values[0]), twin.update(values[0]))


def test_a_foreign_state_is_refused(factory: Factory) -> None:
    with pytest.raises(ValueError, match="no state of"):
        factory().restore({"other": np.zeros(3)})


def test_fit_is_updating_from_nothing(factory: Factory) -> None:
    fitted, updated, values = factory(), factory(), noise(300, 2)
    run(fitted, noise(50, 2, seed=9))
    fitted.fit(values[:250])
    run(updated, values[:250])
    np.testing.assert_array_equal(run(fitted, values[250:]), run(updated, values[250:]))


def test_memory_is_bounded(factory: Factory) -> None:
    detector, values = factory(), noise(500, 3)
    run(detector, values)
    after_500 = sizes(detector)
    for _ in range(39):
        run(detector, values)
    assert sizes(detector) == after_500, "20,000 ticks take what 500 take"


def test_the_same_input_gives_the_same_scores(factory: Factory) -> None:
    values = noise(300, 2)
    np.testing.assert_array_equal(run(factory(), values), run(factory(), values))


def test_hyper_parameters_are_typed_have_defaults_and_stay_verbatim(factory: Factory) -> None:
    kind = type(factory())
    signature = inspect.signature(kind)
    changed = {}
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, name
        assert isinstance(parameter.default, (int, float, str, bool, tuple, type(None))), name
        changed[name] = parameter.default
    for name, value in changed.items():
        if type(value) is int and value > 2:
            changed[name] = value + 1
    detector = kind(**changed)
    assert {name: getattr(detector, name) for name in changed} == changed
    run(detector, noise(50, 2))
    assert {name: getattr(detector, name) for name in changed} == changed


def test_the_docstring_names_parameters_a_reference_and_an_example_that_runs(factory: Factory) -> None:
    kind = type(factory())
    text = kind.__doc__ or ""
    for section in ("Parameters\n", "Examples\n", "References\n"):
        assert section in text
    module = sys.modules[kind.__module__]
    examples = [t for t in doctest.DocTestFinder().find(kind, kind.__name__, module=module) if t.examples]
    assert examples
    for example in examples:
        assert doctest.DocTestRunner().run(example).failed == 0
    for name in inspect.signature(kind).parameters:
        assert f"\n    {name}\n" in text, f"{name} is not described"
