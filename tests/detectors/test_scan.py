"""The one-shot look over a whole observation: finds what stands out, dates it, and is silent on a healthy host."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.scan import scan, scan_window
from wardround.models.diagnosis import Coverage
from wardround.models.observation import Observation
from wardround.models.records import LogRecord
from wardround.models.series import Baseline, Series, Window
from wardround.models.topology import Host, TopologySnapshot

T0 = 1_700_000_000.0
HOST = Host("h", "6", "b", T0 - 1e6, 4, 2**34, 4096, 100)


def window(columns: dict[Series, np.ndarray]) -> Window:
    ticks = len(next(iter(columns.values())))
    values = np.array(list(columns.values()), dtype=float).T
    return Window(T0 + np.arange(float(ticks)), np.arange(float(ticks)), values, tuple(columns))


def observed(seen: Window, logs: tuple[LogRecord, ...] = (), own: frozenset[int] = frozenset()) -> Observation:
    before, after = TopologySnapshot(float(seen.times[0])), TopologySnapshot(float(seen.times[-1]))
    return Observation(
        HOST, seen, Baseline.unknown(len(seen.series)), before, after, logs, (), Coverage(), own_pids=own
    )


def counter(rates: np.ndarray) -> np.ndarray:
    return np.concatenate([[1e6], 1e6 + np.cumsum(rates)])


def healthy(ticks: int, seed: int) -> dict[Series, np.ndarray]:
    """A host that lives: bursts of CPU and I/O with heavy tails, memory that wanders, counters that stand still."""
    rng = np.random.default_rng(seed)
    columns: dict[Series, np.ndarray] = {}
    for pid in range(60):
        columns[Series.of("process.cpu.time", pid=pid, state="user")] = counter(rng.lognormal(-4, 1.5, ticks - 1))
        columns[Series.of("process.memory.usage", pid=pid)] = 5e8 + np.cumsum(rng.normal(0, 1e6, ticks))
        columns[Series.of("process.disk.io", pid=pid, direction="write")] = counter(
            (rng.random(ticks - 1) < 0.1) * rng.lognormal(13, 1.5, ticks - 1)
        )
        columns[Series.of("process.context_switches", pid=pid, type="voluntary")] = counter(
            rng.lognormal(4, 1, ticks - 1)
        )
    for key in ("Tcp.RetransSegs", "TcpExt.ListenOverflows", "Tcp.OutSegs"):
        columns[Series.of("linux.snmp", key=key, netns="")] = np.full(ticks, 12.0)
    return columns


@pytest.mark.parametrize("ticks", [11, 31])
def test_a_healthy_host_brings_nothing_in_nineteen_of_twenty_scans(ticks: int) -> None:
    loud = sum(bool(scan(observed(window(healthy(ticks, seed))))) for seed in range(100))
    assert loud <= 5


def test_a_process_that_starts_to_burn_is_named_and_dated() -> None:
    columns = healthy(31, 1)
    culprit = Series.of("process.cpu.time", pid=7, state="user")
    rates = np.random.default_rng(2).normal(0.01, 0.002, 30)
    rates[18:] += 0.95
    columns[culprit] = counter(rates)
    found = scan(observed(window(columns)))
    assert found[0].series == culprit
    assert (found[0].shape, found[0].onset) == ("shift", T0 + 19)
    assert found[0].usual == pytest.approx(0.01, abs=0.005)
    assert found[0].level == pytest.approx(0.96, abs=0.01)


def test_a_leak_is_a_trend_with_its_time_to_the_limit() -> None:
    anon = Series.of("linux.cgroup.memory.anon", cgroup="/a")
    limit = Series.of("linux.cgroup.memory.limit", cgroup="/a")
    grown = 1e8 + 2e7 * np.arange(31) + np.random.default_rng(3).normal(0, 1e6, 31)
    (found,) = scan(observed(window({anon: grown, limit: np.full(31, 1e9)})))
    assert (found.series, found.shape) == (anon, "trend")
    assert "reaches its limit in 15 s" in found.detail


def test_a_small_change_is_not_worth_a_word() -> None:
    """Sure, but 0.5 % of a CPU."""
    columns = healthy(31, 4)
    columns[Series.of("process.cpu.time", pid=3, state="user")] = counter(np.repeat([0.001, 0.006], 15))
    assert scan(observed(window(columns))) == []


def test_our_own_processes_are_left_out() -> None:
    busy = {Series.of("process.cpu.time", pid=9, state="user"): counter(np.repeat([0.0, 1.0], 15))}
    assert scan(observed(window(busy)))
    assert scan(observed(window(busy), own=frozenset({9}))) == []


def test_what_was_already_wrong_stands_out_against_the_history() -> None:
    busy = Series.of("process.cpu.time", pid=9, state="user")
    seen = window({busy: counter(np.random.default_rng(5).normal(0.9, 0.02, 30))})
    usual = Baseline(np.array([0.1]), np.array([0.01]), np.array([60.0]), "history")
    assert scan_window(seen) == []
    (found,) = scan_window(seen, usual)
    assert (found.detectors, found.usual) == (("baseline",), 0.1)


def test_a_baseline_of_means_since_boot_has_no_scale_and_judges_nothing() -> None:
    busy = Series.of("process.cpu.time", pid=9, state="user")
    seen = window({busy: counter(np.random.default_rng(5).normal(0.9, 0.02, 30))})
    usual = Baseline(np.array([0.1]), np.array([np.nan]), np.array([1.0]), "boot")
    assert scan_window(seen, usual) == []


def test_detectors_that_agree_make_one_anomaly() -> None:
    stall = Series.of("linux.psi.memory.full")
    rates = np.random.default_rng(6).normal(0.01, 0.002, 30)
    rates[15:] += 0.6
    (found,) = scan(observed(window({stall: counter(rates)})))
    assert found.detectors == ("changepoint", "saturation")
    assert (found.shape, found.onset) == ("saturation", T0 + 16)


def test_a_new_log_line_becomes_an_anomaly() -> None:
    seen = window(healthy(31, 7))
    logs = [LogRecord(T0 - 3600 + 5 * i, "journal", f"lease {i} renewed") for i in range(725)]
    odd = LogRecord(T0 + 12, "journal", "replica 7 lost quorum", unit="db.service")
    (found,) = scan(observed(seen, (*logs, odd)))
    assert (found.shape, found.onset, found.detail) == ("new", T0 + 12, "replica 7 lost quorum")
    assert found.series.label("unit") == "db.service"
    assert found.series.metric.unit == "{record}"


@pytest.mark.parametrize("ticks", [0, 1, 2, 3])
def test_an_empty_or_broken_off_window_brings_nothing(ticks: int) -> None:
    columns = {one: values[:ticks] for one, values in healthy(11, 8).items()}
    seen = window(columns) if ticks else Window(np.empty(0), np.empty(0), np.empty((0, 0)), ())
    edge = TopologySnapshot(T0)
    usual = Baseline.unknown(len(seen.series))
    assert scan(Observation(HOST, seen, usual, edge, edge, (), (), Coverage())) == []


def test_a_clock_that_stands_still_brings_no_crash() -> None:
    seen = window(healthy(11, 9))
    stuck = Window(seen.times, np.zeros(11), seen.values, seen.series)
    assert all(one.series.metric.kind == "gauge" for one in scan_window(stuck))
