"""The declared rules: ratios joined by labels, rates, and counters that should stay at zero."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.rules import RULES
from detectors.saturation import Rules
from wardround.models.metrics import METRICS
from wardround.models.series import Series


def breaches(levels: dict[Series, list[float]]) -> dict[Series, tuple[str, float, int]]:
    series = list(levels)
    found = Rules(series).breaches(np.array(list(levels.values()), dtype=float).T)
    return {series[one.column]: (one.rule.shape, round(one.value, 3), one.row) for one in found}


def test_every_rule_speaks_of_declared_metrics_and_labels() -> None:
    for rule in RULES:
        for name, labels in (rule.top, *rule.bottom):
            assert {key for key, _ in labels} <= set(METRICS[name].labels), name
        units = {METRICS[name].unit for name, _ in (rule.top, *rule.bottom)}
        assert len(units) == 1 or rule.least, f"a ratio of {units}"


def test_a_filesystem_is_judged_by_used_and_free_as_df_does() -> None:
    def fs(mount: str, state: str) -> Series:
        return Series.of("system.filesystem.usage", mountpoint=mount, state=state)

    levels = {
        fs("/", "used"): [60.0, 60], fs("/", "free"): [40.0, 40], fs("/", "reserved"): [5.0, 5],
        fs("/data", "used"): [80.0, 99], fs("/data", "free"): [20.0, 1], fs("/data", "reserved"): [5.0, 5],
    }  # fmt: skip
    assert breaches(levels) == {fs("/data", "used"): ("saturation", 0.99, 1)}


def test_a_process_is_held_against_its_own_limit() -> None:
    def fds(pid: int) -> Series:
        return Series.of("process.open_file_descriptor.count", pid=pid)

    levels = {fds(1): [95.0] * 3, fds(2): [95.0] * 3, fds(3): [1e9] * 3}
    levels |= {Series.of("linux.process.fd.limit", pid=pid): [limit] * 3 for pid, limit in ((1, 1000.0), (2, 100.0))}
    assert breaches(levels) == {fds(2): ("saturation", 0.95, 0)}


def test_labels_of_the_top_that_the_limit_lacks_are_left_open() -> None:
    """Ports in use carry a destination, the range of ports only a namespace."""
    used = [Series.of("linux.tcp.ports.used", destination=d, netns="") for d in ("a:1", "b:1")]
    limit = Series.of("linux.tcp.ports.range", netns="")
    assert list(breaches({used[0]: [950.0] * 2, used[1]: [9.0] * 2, limit: [1000.0] * 2})) == [used[0]]


def test_available_memory_is_low_not_high() -> None:
    free, limit = Series.of("system.memory.usage", state="available"), Series.of("system.memory.limit")
    assert list(breaches({free: [50.0, 3], limit: [100.0, 100]})) == [free]
    assert not breaches({free: [50.0, 50], limit: [100.0, 100]})


def test_an_error_counter_that_rises_is_an_error_from_its_first_rise() -> None:
    overflows = Series.of("linux.snmp", key="TcpExt.ListenOverflows", netns="")
    assert breaches({overflows: [np.nan, 0.0, 0, 2, 0]})[overflows][::2] == ("error", 3)
    assert not breaches({overflows: [np.nan, 0.0, 0, 0, 0]})


def test_a_ratio_of_a_trickle_is_not_judged() -> None:
    retransmitted, sent = (Series.of("linux.snmp", key=f"Tcp.{k}", netns="") for k in ("RetransSegs", "OutSegs"))
    assert not breaches({retransmitted: [1.0] * 3, sent: [3.0] * 3})
    assert breaches({retransmitted: [50.0] * 3, sent: [1000.0] * 3})


def test_a_limit_of_zero_or_a_missing_one_breaks_nothing() -> None:
    count, limit = Series.of("linux.fd.open"), Series.of("linux.fd.limit")
    assert not breaches({count: [5.0, 5], limit: [0.0, 0]})
    assert not breaches({count: [5.0, 5], limit: [np.nan, np.nan]})
    assert not breaches({count: [5.0, 5]})


@pytest.mark.parametrize("shape", [(0, 0), (0, 1), (3, 0)])
def test_nothing_seen_breaks_nothing(shape: tuple[int, int]) -> None:
    series = [Series.of("linux.mce")] * shape[1]
    assert Rules(series).breaches(np.full(shape, np.nan)) == []
