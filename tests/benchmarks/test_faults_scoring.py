"""The bench's judgement: what counts as found, as a false alarm, and as calibrated."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.faults_scoring import HEALTHY, brier, calibration_error, confusion, failed, score, totals
from tests.faults.scenario import Truth, entity, process

LEAK = process("mem.leak", 41)
FULL = entity("fs.full", "filesystem", "/srv/spool")


def hypothesis(fault: str, p: float, kind: str = "process", **culprit: Any) -> dict[str, Any]:
    verdict = "confirmed" if p >= 0.9 else "likely" if p >= 0.5 else "possible"
    return {"fault": fault, "probability": p, "verdict": verdict, "culprit": {"kind": kind, "name": "x", **culprit}}


def document(*hypotheses: dict[str, Any], status: str = "problem") -> dict[str, Any]:
    return {"status": status, "hypotheses": list(hypotheses)}


def judged(truths: tuple[Truth, ...], said: dict[str, Any]) -> Any:
    return score("case", truths, said, seconds=12.0, window=10.0, held=True)


def test_the_right_fault_with_the_right_pid_is_right() -> None:
    outcome = judged((LEAK,), document(hypothesis("mem.leak", 0.9, pid=41), hypothesis("cpu.saturation", 0.2)))
    assert outcome.right
    assert outcome.top1
    assert outcome.probability == 0.9
    assert outcome.after_window_s == 2.0
    assert outcome.extra == ()


@pytest.mark.parametrize(
    "culprit", [{"pid": 42}, {"pid": None}, {"kind": "cgroup", "pid": 41}], ids=["other-pid", "no-pid", "other-kind"]
)
def test_the_right_fault_with_a_wrong_culprit_is_not_right(culprit: dict[str, Any]) -> None:
    outcome = judged((LEAK,), document(hypothesis("mem.leak", 0.9, **culprit)))
    assert outcome.top1
    assert not outcome.culprit
    assert not outcome.right


def test_a_named_culprit_needs_the_name() -> None:
    assert judged((FULL,), document(hypothesis("fs.full", 0.8, "filesystem", name="/srv/spool"))).right
    assert not judged((FULL,), document(hypothesis("fs.full", 0.8, "filesystem", name="/srv"))).right


def test_second_place_is_top_3_and_not_top_1() -> None:
    said = document(hypothesis("cpu.saturation", 0.8), hypothesis("mem.leak", 0.6, pid=41))
    outcome = judged((LEAK,), said)
    assert (outcome.top1, outcome.top3, outcome.culprit, outcome.right) == (False, True, True, False)
    assert outcome.extra == ("cpu.saturation",)


def test_a_fault_named_under_the_status_ok_is_not_found() -> None:
    assert not judged((LEAK,), document(hypothesis("mem.leak", 0.9, pid=41), status="ok")).right


def test_two_faults_must_both_be_on_top_and_believed() -> None:
    leak, full = hypothesis("mem.leak", 0.9, pid=41), hypothesis("fs.full", 0.7, "filesystem", name="/srv/spool")
    assert judged((LEAK, FULL), document(full, leak)).right
    assert not judged((LEAK, FULL), document(full, hypothesis("cpu.saturation", 0.7), leak)).top1
    assert not judged((LEAK, FULL), document(leak)).right
    doubted = hypothesis("fs.full", 0.4, "filesystem", name="/srv/spool")
    assert not judged((LEAK, FULL), document(leak, doubted)).top1


def test_a_healthy_host_is_right_only_when_said_so_without_belief() -> None:
    assert judged((), document(status="ok")).right
    assert judged((), document(hypothesis("mem.leak", 0.1), status="ok")).right
    assert not judged((), document(hypothesis("mem.leak", 0.5), status="ok")).right
    assert not judged((), document()).right
    assert not judged((), document(status="degraded")).right


def test_a_symptom_that_truly_holds_is_neither_right_nor_wrong() -> None:
    storm = process("proc.fork_storm", 7, symptoms=("cpu.saturation",))
    said = document(hypothesis("proc.fork_storm", 0.9, pid=7), hypothesis("cpu.saturation", 0.6))
    outcome = judged((storm,), said)
    assert outcome.forecasts == ((0.9, True),)
    assert outcome.extra == ()


def test_an_unnamed_fault_counts_as_a_forecast_of_zero() -> None:
    outcome = judged((LEAK,), document(status="ok"))
    assert outcome.forecasts == ((0.0, True),)
    assert outcome.top_forecast is None


def test_a_document_that_is_none_raises() -> None:
    with pytest.raises(KeyError):
        judged((LEAK,), {"error": "no"})


def test_brier_and_calibration_of_known_forecasts() -> None:
    assert brier([(0.8, True), (0.4, False)]) == pytest.approx((0.04 + 0.16) / 2)
    assert calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == pytest.approx(0.0)
    assert calibration_error([(0.95, True), (0.95, False), (0.05, False), (1.0, True)]) == pytest.approx(
        (abs(2 - 2.9) + 0.05) / 4
    )
    assert math.isnan(brier([]))
    assert math.isnan(calibration_error([]))


def test_confusion_pairs_each_injected_fault_with_what_was_answered() -> None:
    both = judged((LEAK, FULL), document(hypothesis("mem.leak", 0.9, pid=41), hypothesis("io.latency", 0.8)))
    missed = judged((LEAK,), document(status="ok"))
    alarm = judged((), document(hypothesis("net.loss", 0.9)))
    assert confusion([both, missed, alarm]) == {
        ("mem.leak", "mem.leak"): 1,
        ("fs.full", "io.latency"): 1,
        ("mem.leak", HEALTHY): 1,
        (HEALTHY, "net.loss"): 1,
    }


def test_totals_keep_sick_and_healthy_runs_apart() -> None:
    good = judged((LEAK,), document(hypothesis("mem.leak", 0.9, pid=41)))
    bad = failed("case", (LEAK,), "no answer", seconds=70.0, window=10.0)
    quiet = score("healthy/idle", (), document(status="ok"), seconds=11.0, window=10.0, held=True)
    t = totals([good, bad, quiet])
    assert (t.fault_runs, t.right, t.healthy_runs, t.false_alarms, t.spread) == (2, 0.5, 1, 0, 1)
    assert t.seconds_max == 70.0
    assert t.brier_all == pytest.approx((0.01 + 1.0) / 2)
    with pytest.raises(ValueError, match="no runs"):
        totals([])


def test_totals_of_healthy_runs_only_have_no_shares() -> None:
    t = totals([score("healthy/idle", (), document(status="ok"), seconds=11.0, window=10.0, held=True)])
    assert t.right is None
    assert t.false_alarms == 0
