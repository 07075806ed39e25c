"""The ring holds the last ticks of every series, whatever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.ring import Ring
from wardround.models.series import Catalogue, Frame, Window


def catalogue_of(count: int) -> Catalogue:
    catalogue = Catalogue()
    for pid in range(count):
        catalogue.id("process.memory.usage", pid=pid)
    return catalogue


def frame(tick: int, ids: list[int], values: list[float] | None = None) -> Frame:
    given_values = values if values is not None else [tick * 1000.0 + number for number in ids]
    return Frame(1e9 + tick, float(tick), np.array(ids, np.int64), np.array(given_values, float))


def test_a_window_is_the_last_seconds_oldest_first():
    ring = Ring(catalogue_of(3), ticks=10)
    for tick in range(25):
        ring.append(frame(tick, [0, 1, 2]))
    window = ring.window(4)
    assert window.clock.tolist() == [20, 21, 22, 23, 24]
    assert window.times[0] == 1e9 + 20
    assert window.values[:, 1].tolist() == [20001, 21001, 22001, 23001, 24001]
    assert len(ring.window().clock) == 10


def test_an_empty_ring_and_an_empty_frame_give_an_empty_window():
    ring = Ring(catalogue_of(1), ticks=5)
    assert ring.window().values.shape == (0, 0)
    ring.append(Frame.empty(1.0, 1.0))
    assert ring.window().values.shape == (1, 0)


def test_large_counters_keep_every_digit():
    ring = Ring(catalogue_of(1), ticks=3)
    ring.append(frame(0, [0], [2.0**52]))
    ring.append(frame(1, [0], [2.0**52 + 1]))
    assert np.diff(ring.window().values[:, 0]).tolist() == [1.0]


def test_a_vanished_series_leaves_no_trace_in_the_one_that_takes_its_column():
    ring = Ring(catalogue_of(3), ticks=4, columns=1)
    for tick in range(3):
        ring.append(frame(tick, [0]))
    ring.append(frame(3, [1]))
    window = ring.window()
    assert [s.label("pid") for s in window.series] == ["1"]
    assert np.isnan(window.values[:3, 0]).all()


def test_columns_are_reused_so_memory_is_bounded_under_churn():
    ring = Ring(catalogue_of(20_000), ticks=5, columns=600)
    for tick in range(100):
        ring.append(frame(tick, list(range(tick * 100, tick * 100 + 100))))
    assert ring.bytes <= 5 * 600 * 8
    assert ring.refused == 0
    assert len(ring.window().series) == 500


def test_newcomers_are_refused_and_counted_where_every_column_is_in_use():
    ring = Ring(catalogue_of(30), ticks=5, columns=10)
    ring.append(frame(0, list(range(30))))
    assert ring.refused == 20
    assert len(ring.window().series) == 10
    ring.append(frame(1, list(range(10))))
    assert ring.window().values[1].tolist() == [1000.0 + number for number in range(10)]


def test_a_series_in_the_frame_is_not_displaced_by_a_newcomer_of_the_same_frame():
    ring = Ring(catalogue_of(4), ticks=5, columns=2)
    ring.append(frame(0, [0, 1]))
    ring.append(frame(1, [1]))
    ring.append(frame(2, [2, 0, 3]))
    held = {s.label("pid") for s in ring.window(0).series}
    assert "0" in held
    assert len(held) == 2
    assert ring.refused == 1


def test_moving_to_a_fresh_catalogue_keeps_values_and_drops_the_vanished():
    old = catalogue_of(1000)
    ring = Ring(old, ticks=3)
    ring.append(frame(0, [700]))
    for tick in range(1, 4):
        ring.append(frame(tick, [900, 5]))
    fresh = Catalogue()
    ring.move_to(fresh)
    assert {s.label("pid") for s in fresh} == {"900", "5"}
    number = fresh.id("process.memory.usage", pid=900)
    ring.append(frame(4, [number], [7.0]))
    window = ring.window()
    column = window.column("process.memory.usage", pid=900)
    assert window.values[:, column].tolist() == [2900.0, 3900.0, 7.0]


@pytest.mark.parametrize("columns", [4, 64])
@settings(max_examples=60, deadline=None)
@given(ticks=st.lists(st.lists(st.integers(0, 11), unique=True, max_size=4), max_size=25))
def test_the_ring_agrees_with_a_window_of_the_same_frames(columns, ticks):
    """Where no column has to give way the ring is exactly the window of its frames."""
    catalogue = catalogue_of(12)
    ring = Ring(catalogue, ticks=6, columns=columns)
    frames = [frame(tick, ids) for tick, ids in enumerate(ticks)]
    for one in frames:
        ring.append(one)
    expected = Window.of(catalogue, frames[-6:])
    got = ring.window()
    if columns == 64:
        assert got.series == expected.series
        np.testing.assert_array_equal(got.values, expected.values)
    for column, series in enumerate(got.series):
        theirs = expected.values[:, expected.column(series.name, **dict(series.labels))]
        kept = ~np.isnan(got.values[:, column])
        np.testing.assert_array_equal(got.values[kept, column], theirs[kept])
