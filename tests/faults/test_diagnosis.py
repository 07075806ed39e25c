"""The command finds real faults on this host: the fast subset of `make bench-faults`."""

from __future__ import annotations

import pytest

from benchmarks.faults import judge, line
from tests.faults import kernel
from tests.faults.scenario import CPUS, scenarios

WINDOW_S = 6.0
FAST = [
    "cpu.throttling/threads",
    "lock.contention/sleep",
    "mem.leak/free",
    "mem.oom/again",
    "io.saturation/small",
    "fs.full/tmpfs",
    "net.backlog/c",
    "proc.hung/stopped",
    "proc.fd_exhaustion/leak",
]


@pytest.mark.fault
@pytest.mark.parametrize("name", FAST)
def test_an_injected_fault_is_named_first_with_its_culprit(name: str) -> None:
    scenario = scenarios()[name]
    if reason := scenario.probe():
        pytest.skip(reason)
    with scenario.inject() as injected:
        outcome, document = judge(scenario, injected, WINDOW_S)
    assert outcome.held, "the fault did not last until the end of the diagnosis"
    assert outcome.right, f"{line(outcome)}\n{document.get('hypotheses')}"


@pytest.mark.fault
def test_a_host_at_rest_is_called_healthy() -> None:
    if kernel.rate(kernel.idle_s) < 0.5 * CPUS:
        pytest.skip("this host is busy with work of its own")
    scenario = scenarios()["healthy/pool"]
    if reason := scenario.probe():
        pytest.skip(reason)
    with scenario.inject() as injected:
        outcome, document = judge(scenario, injected, WINDOW_S)
    assert outcome.right, f"{line(outcome)}\n{document.get('hypotheses')}"
