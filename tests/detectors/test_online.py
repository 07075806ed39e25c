"""The streaming form: quiet on noise, loud once on a real change, and steady under churn and catalogue changes."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.fusion import AlarmBudget, AlarmPolicy, host_value, merge
from detectors.online import Online
from wardround.models.anomaly import Anomaly
from wardround.models.series import Catalogue, Frame, Series

SIZE = 40


class Host:
    """Feeds an `Online` with noisy gauges, one frame a second."""

    def __init__(self, **settings: float) -> None:
        self.catalogue = Catalogue()
        self.online = Online(self.catalogue, **settings)  # type: ignore[arg-type]
        self.ids = np.array([self.catalogue.id("process.memory.usage", pid=pid) for pid in range(SIZE)])
        self.rng = np.random.default_rng(1)
        self.now = 0.0

    def tick(self, extra: dict[int, float] | None = None) -> list[Anomaly]:
        values = self.rng.normal(1e9, 2e7, SIZE)
        for column, value in (extra or {}).items():
            values[column] += value
        self.now += 1
        return self.online.update(Frame(1.7e9 + self.now, self.now, self.ids, values))

    def run(self, ticks: int, extra: dict[int, float] | None = None) -> list[Anomaly]:
        return [one for _ in range(ticks) for one in self.tick(extra)]


def test_noise_stays_within_the_budget() -> None:
    """Four hours at a budget of six alarms a day: one is expected, three are tolerated."""
    host = Host(per_day=6.0)
    begins = sum(bool(host.tick()) for _ in range(14_400))
    assert begins <= 3


def test_a_change_is_alarmed_once_named_first_and_dated() -> None:
    host = Host()
    host.run(900)
    found = host.run(60, {5: 8e8})
    assert found
    assert found[0].series == Series.of("process.memory.usage", pid=5)
    assert abs(found[0].onset - (1.7e9 + 901)) <= 1
    assert len({one.series for one in found}) == len(found)
    assert host.run(20, {5: 8e8}) == [], "the same trouble is not told twice"


def test_an_immaterial_change_is_no_alarm() -> None:
    host = Host()
    host.ids = np.array([host.catalogue.id("process.open_file_descriptor.count", pid=pid) for pid in range(SIZE)])
    rng = np.random.default_rng(2)
    found = []
    for t in range(1200):
        values = rng.normal(50, 1, SIZE)
        values[3] += 40 if t > 1000 else 0  # 40 descriptors: far out, but nothing
        found += host.online.update(Frame(1.7e9 + t, float(t), host.ids, values))
    assert not [one for one in found if one.series.label("pid") == "3"]


def test_a_broken_rule_is_told_when_it_begins() -> None:
    host = Host()
    counter = host.catalogue.id("linux.snmp", key="TcpExt.ListenOverflows", netns="")
    host.ids = np.append(host.ids, counter)
    rng, found = np.random.default_rng(3), []
    for t in range(300):
        values = np.append(rng.normal(1e9, 1e6, SIZE), 5.0 + max(t - 200, 0))
        found += [
            one for one in host.online.update(Frame(1.7e9 + t, float(t), host.ids, values)) if one.shape == "error"
        ]
    assert [one.series.label("key") for one in found] == ["TcpExt.ListenOverflows"]
    assert 1.7e9 + 200 <= found[0].onset <= 1.7e9 + 206


def test_own_processes_are_never_named() -> None:
    host = Host()
    host.online.own = {"5"}
    host.run(900)
    assert all(one.series.label("pid") != "5" for one in host.run(30, {5: 8e8}))


def test_a_host_that_forks_all_day_does_not_grow_us() -> None:
    catalogue = Catalogue()
    online = Online(catalogue)
    for t in range(3000):
        ids = np.array([catalogue.id("process.memory.usage", pid=10 * t + n) for n in range(3)])
        online.update(Frame(1.7e9 + t, float(t), ids, np.full(3, 1e6)))
    assert len(catalogue) == 9000
    assert len(online._slots) < 2000


def test_it_follows_the_sampler_to_a_fresh_catalogue() -> None:
    host = Host()
    host.run(900)
    fresh = Catalogue()
    fresh.id("linux.mce")  # ids differ from the old ones
    host.online.move_to(fresh)
    host.catalogue = fresh
    host.ids = np.array([fresh.id("process.memory.usage", pid=pid) for pid in range(SIZE)])
    assert host.run(60) == []
    assert host.run(30, {5: 8e8})[0].series.label("pid") == "5"


def test_an_empty_frame_and_a_frame_of_gaps_are_no_trouble() -> None:
    host = Host()
    assert host.online.update(Frame.empty(1.7e9, 0.0)) == []
    host.run(200)
    assert host.online.update(Frame(1.7e9 + 300, 300.0, host.ids, np.full(SIZE, np.nan))) == []
    assert host.online.update(Frame.empty(1.7e9, 301.0)) == []


def test_the_budget_is_held_by_feedback_where_the_tail_is_wrong() -> None:
    """Surprises ten times too large in probability: a fixed threshold would give hundreds of alarms in ten days."""
    policy = AlarmPolicy(per_day=2.0, tick=60.0, cooldown=0.0)
    rng = np.random.default_rng(4)
    optimistic = 1.0 - np.log10(rng.random(14_400))
    begun = [policy.update(float(s), 60.0 * t) == "begins" for t, s in enumerate(optimistic)]
    assert 5 <= sum(begun) <= 40
    fixed = -np.log10(0.5) + AlarmBudget(2.0, 60.0).bar
    flagged = optimistic >= fixed
    assert (flagged[1:] & flagged[:-1]).sum() > 2 * sum(begun)


def test_one_tick_over_the_bar_is_no_alarm() -> None:
    policy = AlarmPolicy()
    assert [policy.update(s, float(t)) for t, s in enumerate([9.0, 0, 0, 9, 0, 0, float("nan"), 9])] == [""] * 8


def test_the_host_is_as_unusual_as_its_three_most_surprising_series() -> None:
    assert host_value(np.array([1.0, 5, np.nan, 5, 5])) == pytest.approx(5)
    assert host_value(np.array([5.0, 5.0])) == pytest.approx(5)
    assert host_value(np.array([0.0] * 100)) == 0
    assert np.isnan(host_value(np.array([np.nan])))


def test_merging_keeps_the_most_telling_shape_and_the_date_of_the_change() -> None:
    one = Series.of("linux.psi.io.full")
    rule = Anomaly(one, 5.0, 1e-6, 0.9, float("nan"), "saturation", ("saturation",), "0.9")
    shift = Anomaly(one, 7.0, 1e-9, 0.9, 0.1, "shift", ("changepoint",))
    (merged,) = merge([rule, shift])
    assert (merged.shape, merged.onset, merged.p, merged.usual) == ("saturation", 7.0, 1e-9, 0.1)
    assert merged.detectors == ("changepoint", "saturation")
