"""Diagnoses made by hand, for the forms of a report: none of them comes from a real host."""

from __future__ import annotations

import math

from wardround.models.diagnosis import (
    Action,
    Chart,
    Coverage,
    Culprit,
    Diagnosis,
    Evidence,
    Hypothesis,
    RuledOut,
    Skipped,
    Usage,
    Verification,
    Vote,
)

START = 1_795_000_000.0
END = START + 30
TIMES = tuple(START + second for second in range(31))

THROTTLED = Evidence(
    id="ev_01",
    kind="metric",
    source="collectors.cgroup",
    statement="the kernel stopped /shop/api in 212 of 300 periods (71 %)",
    values={"throttled": 212, "periods": 300, "ratio": 0.71},
    baseline={"ratio": 0.0},
    unit="1",
    reproduce="cat /sys/fs/cgroup/shop/api/cpu.stat",
    trust="kernel",
    start=START,
    end=END,
    feature="throttled_ratio",
    series=("linux.cgroup.cpu.throttled.periods",),
)
IDLE = Evidence(
    id="ev_02",
    kind="metric",
    source="collectors.cpu",
    statement="48 % of the host's CPU time was idle",
    values={"idle": 0.48},
    unit="1",
    reproduce="mpstat 1 5",
    trust="kernel",
    start=START,
    end=END,
)
FULL = Evidence(
    id="ev_03",
    kind="metric",
    source="collectors.space",
    statement="/var/lib/shop has 0 of 41943040 bytes free",
    values={"free": 0, "size": 41943040, "rate": math.nan},
    unit="By",
    reproduce="df -h /var/lib/shop",
    trust="kernel",
    start=START,
    end=END,
)
LOG = Evidence(
    id="ev_04",
    kind="log",
    source="collectors.logs",
    statement='<script>alert("x")</script> \x1b[31mred\u202e [bold]not markup[/bold] | table | `tick`',
    values={},
    unit="1",
    reproduce="journalctl -u shop --since '10 min ago' | grep -F 'alert' && "
    "echo \"a 'quoted' and very long command that must never be broken across lines\"",
    trust="text",
    start=START,
    end=END,
)
CALM = Evidence(
    id="ev_05",
    kind="metric",
    source="collectors.psi",
    statement="no task stalled on memory for more than 0.1 % of the time",
    values={"some": 0.001},
    unit="1",
    reproduce="cat /proc/pressure/memory",
    trust="kernel",
    start=START,
    end=END,
)

THROTTLING = Hypothesis(
    id="hyp_01",
    fault="cpu.throttling",
    culprit=Culprit("cgroup", "/shop/api", 4121, (("unit", "shop.service"),)),
    probability=0.941234567,
    verdict="confirmed",
    onset=START - 79,
    supporting=("ev_01", "ev_02", "ev_04"),
    explains=("linux.psi.cpu.some", "lock.contention"),
    causal_chain=("quota 20 ms per 100 ms", "threads throttled", "requests queue"),
    headline="api (pid 4121) is stopped by the CPU quota of /shop/api 71 % of the time while half of the CPUs idle.",
)
DISK = Hypothesis(
    id="hyp_02",
    fault="fs.full",
    culprit=Culprit("filesystem", "/var/lib/shop"),
    probability=0.62,
    verdict="likely",
    onset=None,
    supporting=("ev_03",),
    contradicting=("ev_05",),
    would_confirm=("a failing write with ENOSPC",),
    headline="/var/lib/shop has no space left.",
)
LEAK = Hypothesis(
    id="hyp_03",
    fault="mem.leak",
    culprit=Culprit("process", "cached", 77),
    probability=0.12,
    verdict="possible",
    onset=None,
)

COVERAGE = Coverage(
    ran=("collectors.cpu", "collectors.psi", "collectors.cgroup", "collectors.space"),
    skipped=(
        Skipped("collectors.nvml", "no NVIDIA driver on this host"),
        Skipped("collectors.ebpf.runqlat", "not permitted to load programs", "run as root"),
    ),
)
ACTION = Action(
    id="act_01",
    action="cgroup.set_cpu_quota",
    params={"cgroup": "/shop/api", "quota_us": None},
    risk="R1",
    preview="cpu.max of /shop/api: 20000 100000 -> max 100000",
    blast_radius="1 cgroup, 1 service",
    rollback="cpu.max: max 100000 -> 20000 100000",
    treats="hyp_01",
)


def problem() -> Diagnosis:
    """Two independent faults, one confirmed, with hostile text in a log line."""
    return Diagnosis(
        run_id="run_01JD8Z3V7M0000000000000000",
        incident_id="inc_01JD8Z3V7M0000000000000001",
        host="shop-07",
        status="problem",
        severity="critical",
        start=START,
        end=END,
        summary="2 independent faults: (1) api is stopped by its CPU quota (2) /var/lib/shop is full",
        hypotheses=(THROTTLING, DISK, LEAK),
        ruled_out=(RuledOut("mem.thrashing", ("ev_05",), "/shop/api"),),
        evidence=(THROTTLED, IDLE, FULL, LOG, CALM),
        verification=Verification(
            "unverified",
            (Vote("rules", "cpu.throttling", 0.94),),
            "passed",
            "passed",
            "no language model is configured: the rule engine judged alone",
        ),
        actions=(ACTION,),
        coverage=COVERAGE,
        usage=Usage(31.4, 6),
        charts=(
            Chart(
                "linux.cgroup.cpu.throttled.periods{cgroup=/shop/api}",
                "{period}/s",
                TIMES,
                (None, *(0.0 if n < 8 else 7.0 + n % 3 for n in range(30))),
                "ev_01",
            ),
        ),
    )


def healthy() -> Diagnosis:
    """Nothing wrong, everything important looked at."""
    return Diagnosis(
        run_id="run_01JD8Z3V7M0000000000000002",
        incident_id="",
        host="shop-08",
        status="ok",
        severity="none",
        start=START,
        end=END,
        summary="Nothing wrong was found in 30 s: CPUs 4 % busy, 12.1 GiB memory available.",
        hypotheses=(),
        ruled_out=(RuledOut("mem.thrashing", ("ev_05",)),),
        evidence=(CALM,),
        verification=Verification("unverified", note="no language model is configured"),
        actions=(),
        coverage=COVERAGE,
        usage=Usage(30.9, 2),
    )


def degraded() -> Diagnosis:
    """Too little could be seen."""
    return Diagnosis(
        run_id="run_01JD8Z3V7M0000000000000003",
        incident_id="",
        host="shop-09",
        status="degraded",
        severity="none",
        start=START,
        end=START + 2,
        summary="Too little could be observed to say whether this host is healthy.",
        hypotheses=(),
        ruled_out=(),
        evidence=(),
        verification=Verification("unverified"),
        actions=(),
        coverage=Coverage((), (Skipped("collectors.cpu", "/proc is not mounted", "mount /proc"),)),
        usage=Usage(2.1),
    )
