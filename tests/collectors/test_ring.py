"""The ring holds the last ticks of every series, whatever comes and goes."""

from __future__ import annotations

import numpy as np
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


def test_of_two_values_of_one_series_in_a_tick_the_later_holds():
    ring = Ring(catalogue_of(2), ticks=3)
    ring.append(frame(0, [1, 0, 1], [5.0, 6.0, 7.0]))
    assert ring.window().values.tolist() == [[6.0, 7.0]]


def test_the_vanished_cost_nothing_once_their_ticks_are_gone():
    ring = Ring(catalogue_of(20_000), ticks=5)
    for tick in range(100):
        ring.append(frame(tick, list(range(tick * 100, tick * 100 + 100))))
    assert ring.bytes == 5 * 100 * 12
    assert len(ring.window().series) == 500


def test_ticks_with_the_same_series_share_their_ids():
    ring = Ring(catalogue_of(100), ticks=50)
    for tick in range(80):
        ring.append(frame(tick, list(range(100))))
    assert ring.bytes <= 50 * 100 * 8 + 400


def test_a_ring_that_would_grow_too_large_reaches_back_less_far():
    ring = Ring(catalogue_of(1000), ticks=900, most_bytes=100_000)
    for tick in range(200):
        ring.append(frame(tick, list(range(1000))))
    assert ring.bytes <= 100_000
    assert 10 <= len(ring) < 20
    assert ring.window().clock[-1] == 199


def test_a_frame_that_changes_later_does_not_change_the_ring():
    ring = Ring(catalogue_of(1), ticks=5)
    given = frame(0, [0], [1.0])
    ring.append(given)
    given.values[0] = 9.0
    given.ids[0] = 5
    assert ring.window().values.tolist() == [[1.0]]


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


@settings(max_examples=60, deadline=None)
@given(ticks=st.lists(st.lists(st.integers(0, 11), unique=True, max_size=4), max_size=25))
def test_the_ring_is_exactly_the_window_of_its_frames(ticks):
    catalogue = catalogue_of(12)
    ring = Ring(catalogue, ticks=6)
    frames = [frame(tick, ids) for tick, ids in enumerate(ticks)]
    for one in frames:
        ring.append(one)
    expected, got = Window.of(catalogue, frames[-6:]), ring.window()
    assert got.series == expected.series
    np.testing.assert_array_equal(got.values, expected.values)
    assert ring.series(1e9) == len(expected.series)
