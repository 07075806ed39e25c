"""The grounding check: a number that is not in the evidence does not reach the report."""

from __future__ import annotations

import pytest

from rca.ground import grounded, ungrounded
from wardround.models.diagnosis import Evidence

EVIDENCE = Evidence(
    id="ev_1",
    kind="metric",
    source="collectors.cgroup",
    statement="the quota stopped it in 212 of 300 periods (71%)",
    values={"throttled_periods": 212, "periods": 300, "ratio": 0.7067, "bytes": 52_700_000.0, "seconds": 0.0831},
    unit="1",
    reproduce="cat /proc/4121/status",
    trust="kernel",
    start=0.0,
    end=1.0,
    baseline={"ratio": 0.02},
)


@pytest.mark.parametrize(
    "sentence",
    [
        "212 of 300 periods were stopped, 71 % of them",
        "it was 2 % before",
        "it holds 50.3 MiB",
        "each takes 83.1 ms",
        "llama-server (pid 4121) is stopped",
        "one of the two devices sda1 and nvme0n1 at 10.0.0.7:8080",
        "no number at all",
    ],
)
def test_figures_of_the_evidence_pass_at_any_usual_scale(sentence: str) -> None:
    """Percent, binary sizes, milliseconds and names are recognised."""
    assert ungrounded(sentence, [EVIDENCE]) == []


@pytest.mark.parametrize("sentence", ["it was stopped 99 % of the time", "it lost 4711 requests", "since 37 minutes"])
def test_an_invented_figure_is_found(sentence: str) -> None:
    """A number nobody measured fails the sentence."""
    assert not grounded(sentence, [EVIDENCE])


def test_a_sentence_without_evidence_may_hold_no_figures() -> None:
    """Citing nothing grounds nothing."""
    assert not grounded("latency rose by 40 %", [])
