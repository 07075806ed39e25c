"""Log templates: masking, mining, and what is new or bursts against the records before the window."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.templates import TemplateMiner, findings, mask
from wardround.models.records import LogRecord

START, END = 10_000.0, 10_030.0


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("sda1: error at 0x1f4c", "sda1: error at <HEX>"),
        ("from 10.0.0.7:443 and fe80::5054:ff:fe12:3456", "from <IP> and <IP>"),
        ("link 52:54:00:12:34:56 up", "link <MAC> up"),
        ("run 123e4567-e89b-12d3-a456-426614174000 ended", "run <UUID> ended"),
        ("layer 1234abcd90 pulled, feedface kept", "layer <HEX> pulled, feedface kept"),
        ("at 2026-11-22T16:00:00Z and 12:30:45 took 12.5ms", "at <TIME> and <TIME> took <NUM>"),
        ("wrote /var/lib/db/7, not /tmp", "wrote <PATH>, not /tmp"),
        ("Killed process 123 (stress) total-vm:9kB", "Killed process <NUM> (stress) total-vm:<NUM>"),
        ("cpu0 and eth0 and 3rd keep their names", "cpu0 and eth0 and 3rd keep their names"),
    ],
)
def test_variable_parts_are_masked_and_names_kept(line: str, masked: str) -> None:
    assert mask(line) == masked


def test_a_hostile_line_is_cut_and_masked_in_bounded_time() -> None:
    """A megabyte made to backtrack must not take longer than its first kilobyte."""
    for hostile in ("a" * 1_000_000, "/a" * 500_000, "1:" * 500_000, "f" * 1_000_000 + "g", "\0\x1b[31m" * 1000):
        assert len(mask(hostile)) <= 8 * 1024


def test_templates_stay_bounded() -> None:
    miner = TemplateMiner(max_templates=50, cache=100)
    rng = np.random.default_rng(3)
    for _ in range(2000):
        miner.add(" ".join("".join(rng.choice(list("ghijklm"), 6)) for _ in range(int(rng.integers(3, 9)))))
    assert len(miner._drain.clusters) <= 50
    assert len(miner._known) <= 100


def heartbeat(every: float = 10.0, text: str = "lease {} renewed") -> list[LogRecord]:
    return [LogRecord(t, "journal", text.format(int(t))) for t in np.arange(6000.0, END, every)]


def test_a_usual_log_brings_nothing() -> None:
    assert findings(heartbeat(), START, END) == []


def test_a_line_never_seen_before_is_new_at_its_time() -> None:
    odd = LogRecord(10_012.0, "journal", "replica 7 lost quorum", unit="db")
    (found,) = findings(sorted([*heartbeat(), odd], key=lambda r: r.time), START, END)
    assert (found.shape, found.onset, found.unit, found.count) == ("new", 10_012.0, "db", 1)
    assert found.template == "replica <NUM> lost quorum"
    assert found.p < 0.02


def test_new_lines_are_no_surprise_where_new_lines_are_daily_life() -> None:
    rng = np.random.default_rng(5)

    def babble(t: float) -> LogRecord:
        text = " ".join("".join(rng.choice(list("ghijklm"), 6)) for _ in range(int(rng.integers(3, 9))))
        return LogRecord(t, "journal", text)

    records = [babble(float(t)) for t in np.arange(6000.0, END, 10.0)]
    assert all(found.p > 0.05 for found in findings(records, START, END))


def test_a_burst_is_told_from_the_usual_rate() -> None:
    burst = [LogRecord(10_005.0 + i / 4, "journal", f"lease {i} renewed") for i in range(60)]
    (found,) = findings(sorted([*heartbeat(), *burst], key=lambda r: r.time), START, END)
    assert found.shape == "burst"
    assert found.p < 1e-6
    assert found.usual == pytest.approx(0.1, rel=0.1)


def test_a_source_that_always_comes_in_clumps_does_not_burst() -> None:
    rng = np.random.default_rng(1)
    clumps = [
        LogRecord(t + i / 100, "journal", f"flush {i} pages")
        for t in np.sort(rng.uniform(6000, END - 1, 60)).tolist()
        for i in range(int(rng.integers(1, 60)))
    ]
    clumps += [LogRecord(10_010.0 + i / 100, "journal", f"flush {i} pages") for i in range(45)]
    assert all(found.p > 1e-3 for found in findings(sorted(clumps, key=lambda r: r.time), START, END))


def test_without_records_from_before_nothing_is_said() -> None:
    late = [LogRecord(START + i / 10, "app.log", f"panic number {i}") for i in range(100)]
    assert findings(late, START, END) == []
    assert findings([], START, END) == []


def test_sources_are_judged_apart() -> None:
    """A file with no history does not make the journal's new line less new."""
    file = [LogRecord(START + i, "app.log", f"hello {i}") for i in range(20)]
    odd = LogRecord(10_012.0, "journal", "replica lost quorum")
    found = findings(sorted([*heartbeat(), *file, odd], key=lambda r: r.time), START, END)
    assert [one.source for one in found] == ["journal"]
