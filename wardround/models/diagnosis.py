"""The round's result and its parts. `wardround.models.document` prints it as the published JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EvidenceKind = Literal["metric", "log", "event", "topology", "vmcore", "knowledge", "test"]
Trust = Literal["kernel", "host", "text"]
Verdict = Literal["confirmed", "likely", "possible"]
Status = Literal["ok", "problem", "degraded", "error"]
SeverityLevel = Literal["none", "info", "warning", "critical"]
Risk = Literal["R0", "R1", "R2", "R3"]
CulpritKind = Literal[
    "process", "cgroup", "host", "device", "interface", "filesystem",
    "kernel_function", "kernel_task", "engine", "service", "change",
]  # fmt: skip
Number = float | int | None


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who does it: `name` is what an operator would type, `pid` the process behind it where there is one."""

    kind: CulpritKind
    name: str
    pid: int | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, str, int | None]:
        return (self.kind, self.name, self.pid)

    def label(self, key: str) -> str | None:
        return dict(self.labels).get(key)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One finding a person can check: where it was read, when, the numbers, the usual, and how to see it again.

    `start` and `end` are Unix seconds. `feature` is the question of the fault model it answers and `series` names the
    metrics behind it (for charts). Every number that `statement` tells must be in `values` or `baseline`.
    """

    id: str
    kind: EvidenceKind
    source: str
    statement: str
    values: Mapping[str, Number]
    unit: str
    reproduce: str
    trust: Trust
    start: float
    end: float
    baseline: Mapping[str, Number] = field(default_factory=dict)
    feature: str = ""
    series: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One fault with one culprit, told in the sentence `headline`.

    `explains` are metrics or other faults that this cause accounts for. `ended` is when a crash ended it, Unix seconds;
    None for what is present.
    """

    id: str
    fault: str
    culprit: Culprit
    probability: float
    verdict: Verdict
    onset: float | None
    supporting: tuple[str, ...] = ()
    contradicting: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()
    causal_chain: tuple[str, ...] = ()
    would_confirm: tuple[str, ...] = ()
    headline: str = ""
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A fault that was looked at and excluded, with the evidence that excludes it."""

    fault: str
    because: tuple[str, ...]
    culprit: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """A proposed treatment from the catalogue; nothing runs before a human approves."""

    id: str
    action: str
    params: Mapping[str, str | int | float | bool | None]
    risk: Risk
    preview: str
    blast_radius: str
    rollback: str
    treats: str
    precheck: str = ""
    verify: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    by: str
    fault: str
    probability: float


@dataclass(frozen=True, slots=True)
class Verification:
    """Who agrees. `causal_check` and `grounding_check` are ``passed``, ``failed`` or ``not_applicable``."""

    status: Literal["verified", "contested", "unverified"]
    votes: tuple[Vote, ...] = ()
    causal_check: str = "not_applicable"
    grounding_check: str = "not_applicable"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A part that did not run, why, and what would enable it (None where nothing would)."""

    name: str
    reason: str
    enable: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    ran: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    seconds: float = 0.0
    tool_calls: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """A telling series for the report: `times` Unix seconds and `values` in `unit`."""

    title: str
    unit: str
    times: tuple[float, ...]
    values: tuple[float | None, ...]
    evidence: str


@dataclass(frozen=True, slots=True)
class CrashStack:
    """The telling frames of one task at the crash, innermost first."""

    task: str
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """A kernel crash as its report shows it. `time` Unix seconds and `uptime` seconds since boot, None where unknown.

    `source` is the file that was read and `tier` how much it holds (``log``, ``dump``, ``modules``, ``debuginfo``);
    `waits` says who waits for what and who holds it, a line a lock.
    """

    host: str
    source: str
    tier: str
    release: str = ""
    time: float | None = None
    uptime: float | None = None
    message: str = ""
    task: str = ""
    stacks: tuple[CrashStack, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A finished round. `start`, `end` are the window in Unix seconds; `explanation` is a model's, already checked.

    `about` is ``crash`` where a crash alone was judged: the window is then the life of the kernel that crashed. Of a
    running host `crash` is the last one, which it was rebooted from.
    """

    run_id: str
    incident_id: str
    host: str
    status: Status
    severity: SeverityLevel
    start: float
    end: float
    summary: str
    hypotheses: tuple[Hypothesis, ...]
    ruled_out: tuple[RuledOut, ...]
    evidence: tuple[Evidence, ...]
    verification: Verification
    actions: tuple[Action, ...]
    coverage: Coverage
    usage: Usage
    charts: tuple[Chart, ...] = ()
    explanation: tuple[str, ...] = ()
    about: Literal["host", "crash"] = "host"
    crash: Crash | None = None
