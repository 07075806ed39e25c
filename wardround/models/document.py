"""The published document ``wardround.diagnosis/v1``: what ``-o json``, stored reports and every other surface share.

`to_document` turns a finished `Diagnosis` into it, `schema` returns its JSON schema (draft 2020-12). Fields are only
ever added: a reader ignores what it does not know, and a field that exists keeps its name, type and meaning. The
document holds nothing that JSON cannot carry: NaN and infinities become null, times are RFC 3339 in UTC.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
)

from wardround.models import diagnosis as inside
from wardround.models.diagnosis import CulpritKind, EvidenceKind, Risk, SeverityLevel, Status, Trust, Verdict
from wardround.text import encodable

SCHEMA: Literal["wardround.diagnosis/v1"] = "wardround.diagnosis/v1"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
Check = Literal["passed", "failed", "not_applicable"]


def rfc3339(time: datetime) -> str:
    """Return ``2026-11-22T09:00:00Z``, with milliseconds only where there are any."""
    utc = time.astimezone(UTC)
    spec = "milliseconds" if utc.microsecond >= 1000 else "seconds"
    return utc.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def moment(seconds: float) -> datetime:
    """Return Unix seconds as a UTC time, rounded to the millisecond that the document prints."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return datetime.fromtimestamp(whole, UTC) + timedelta(milliseconds=thousandths)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Time = Annotated[
    AwareDatetime,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Number = Annotated[float | int | None, BeforeValidator(_finite)]
Probability = Annotated[float, Field(ge=0, le=1)]
FaultId = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]


class Part(BaseModel):
    """Base of all parts: immutable, and a field that a later version added is no error."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, serialize_by_alias=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_utf8(cls, value: object) -> object:
        return encodable(value)


class Span(Part):
    """From when to when something was observed."""

    start: Time = Field(validation_alias="from", serialization_alias="from")
    end: Time = Field(validation_alias="to", serialization_alias="to")


class ObservedWindow(Span):
    """The window of the whole diagnosis."""

    seconds: Annotated[float, Field(ge=0)]


class Culprit(Part):
    """Who does it. `name` is what an operator would type; `pid` the process behind it where there is one."""

    kind: CulpritKind
    name: str
    pid: int | None = None
    labels: dict[str, str] = {}


class Hypothesis(Part):
    """One fault with its culprit. Two independent faults are two entries; a symptom of another entry is none."""

    id: str
    fault: FaultId
    probability: Probability
    verdict: Verdict
    culprit: Culprit
    onset: Time | None = None
    supporting: list[str]
    contradicting: list[str]
    explains: list[str]
    causal_chain: list[str]
    would_confirm: list[str]
    headline: str | None = None
    ended: Time | None = None  # of what a crash ended; absent of what is present


class RuledOut(Part):
    """A fault that was looked at and excluded by this evidence."""

    fault: FaultId
    because: list[str]
    culprit: str | None = None


class Evidence(Part):
    """One finding, with its numbers, what is usual, and the command or query that shows it again."""

    id: str
    kind: EvidenceKind
    source: str
    statement: str
    values: dict[str, Number]
    unit: str
    baseline: dict[str, Number]
    window: Span
    reproduce: str
    trust: Trust
    feature: str | None = None
    series: list[str] = []


class Vote(Part):
    """Who believes in which fault, and how much."""

    by: str
    fault: str
    probability: Probability


class Verification(Part):
    """Whether independent judges agree, and whether cause precedes effect and claims rest on evidence."""

    status: Literal["verified", "contested", "unverified"]
    votes: list[Vote]
    causal_check: Check
    grounding_check: Check
    note: str


class Action(Part):
    """A proposed treatment; nothing is done before a person approves. R0 reads, R1 is reversible and local,
    R2 interrupts a service, R3 is irreversible or wide."""

    id: str
    action: str
    params: dict[str, str | bool | Number]
    risk: Risk
    preview: str
    blast_radius: str
    rollback: str
    treats: str
    precheck: str | None = None
    verify: str | None = None


class Skipped(Part):
    """A part that did not run, why, and what would enable it (null where nothing would)."""

    name: str
    reason: str
    enable: str | None = None


class Coverage(Part):
    """What looked at the host and what could not."""

    ran: list[str]
    skipped: list[Skipped]


class Usage(Part):
    """What the diagnosis cost."""

    seconds: float
    tool_calls: int
    model_calls: int
    input_tokens: int
    output_tokens: int


class Chart(Part):
    """A telling series: `values` in `unit` at `seconds` after `from`; null where it was not seen."""

    title: str
    unit: str
    evidence: str
    start: Time = Field(validation_alias="from", serialization_alias="from")
    seconds: list[float]
    values: list[Number]


class CrashStack(Part):
    """The telling frames of one task at the crash, innermost first."""

    task: str
    frames: list[str]


class Crash(Part):
    """A kernel crash: `uptime` seconds after boot, read from `source`; `tier` is what that file holds, ``log`` least.

    `waits` says who waits for what and who holds it, a line a lock.
    """

    host: str
    source: str
    tier: str
    release: str
    time: Time | None = None
    uptime: Number = None
    message: str
    task: str
    stacks: list[CrashStack] = []
    waits: list[str] = []


class Document(Part):
    """One diagnosis of one host, or of one crash (`about`): then the window is the life of the kernel that crashed.

    Of a running host `crash` is the last one, which it was rebooted from.
    """

    schema_: Literal["wardround.diagnosis/v1"] = Field(
        default=SCHEMA, validation_alias="schema", serialization_alias="schema"
    )
    run_id: str
    incident_id: str | None
    host: str
    status: Status
    severity: SeverityLevel
    window: ObservedWindow
    summary: str
    hypotheses: list[Hypothesis]
    ruled_out: list[RuledOut]
    evidence: list[Evidence]
    verification: Verification
    actions: list[Action]
    coverage: Coverage
    usage: Usage
    explanation: list[str] = []
    charts: list[Chart] = []
    about: Literal["host", "crash"] = "host"
    crash: Crash | None = None

    def to_json(self, indent: int | None = 2) -> str:
        """Return the document as JSON text; the same document gives the same text."""
        return self.model_dump_json(indent=indent)

    def cited(self, ids: list[str]) -> list[Evidence]:
        """Return the evidence with these ids, in the order of the ids; unknown ids are left out."""
        known = {evidence.id: evidence for evidence in self.evidence}
        return [known[key] for key in ids if key in known]


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the printed document."""
    body = Document.model_json_schema(mode="serialization", by_alias=True)
    return {"$schema": DIALECT, "$id": f"urn:{SCHEMA.replace('/', ':')}", **body, "title": SCHEMA}


def to_document(diagnosis: inside.Diagnosis) -> Document:
    """Return the published form of a finished diagnosis."""
    return Document(
        run_id=diagnosis.run_id,
        incident_id=diagnosis.incident_id or None,
        host=diagnosis.host,
        status=diagnosis.status,
        severity=diagnosis.severity,
        window=ObservedWindow(
            start=moment(diagnosis.start),
            end=moment(diagnosis.end),
            seconds=round(max(0.0, diagnosis.end - diagnosis.start), 3),
        ),
        summary=diagnosis.summary,
        hypotheses=[_hypothesis(each) for each in diagnosis.hypotheses],
        ruled_out=[
            RuledOut(fault=each.fault, because=list(each.because), culprit=each.culprit or None)
            for each in diagnosis.ruled_out
        ],
        evidence=[_evidence(each) for each in diagnosis.evidence],
        verification=_verification(diagnosis.verification),
        actions=[_action(each) for each in diagnosis.actions],
        coverage=Coverage(
            ran=list(diagnosis.coverage.ran),
            skipped=[
                Skipped(name=each.name, reason=each.reason, enable=each.enable) for each in diagnosis.coverage.skipped
            ],
        ),
        usage=_usage(diagnosis.usage),
        explanation=list(diagnosis.explanation),
        charts=[_chart(each) for each in diagnosis.charts if each.times],
        about=diagnosis.about,
        crash=None if diagnosis.crash is None else _crash(diagnosis.crash),
    )


def _hypothesis(hypothesis: inside.Hypothesis) -> Hypothesis:
    culprit = hypothesis.culprit
    return Hypothesis(
        id=hypothesis.id,
        fault=hypothesis.fault,
        probability=round(hypothesis.probability, 4),
        verdict=hypothesis.verdict,
        culprit=Culprit(kind=culprit.kind, name=culprit.name, pid=culprit.pid, labels=dict(culprit.labels)),
        onset=None if hypothesis.onset is None or math.isnan(hypothesis.onset) else moment(hypothesis.onset),
        supporting=list(hypothesis.supporting),
        contradicting=list(hypothesis.contradicting),
        explains=list(hypothesis.explains),
        causal_chain=list(hypothesis.causal_chain),
        would_confirm=list(hypothesis.would_confirm),
        headline=hypothesis.headline or None,
        ended=None if hypothesis.ended is None else moment(hypothesis.ended),
    )


def _evidence(evidence: inside.Evidence) -> Evidence:
    return Evidence(
        id=evidence.id,
        kind=evidence.kind,
        source=evidence.source,
        statement=evidence.statement,
        values=dict(evidence.values),
        unit=evidence.unit,
        baseline=dict(evidence.baseline),
        window=Span(start=moment(evidence.start), end=moment(evidence.end)),
        reproduce=evidence.reproduce,
        trust=evidence.trust,
        feature=evidence.feature or None,
        series=list(evidence.series),
    )


def _verification(verification: inside.Verification) -> Verification:
    return Verification(
        status=verification.status,
        votes=[
            Vote(by=each.by, fault=each.fault, probability=round(each.probability, 4)) for each in verification.votes
        ],
        causal_check=_check(verification.causal_check),
        grounding_check=_check(verification.grounding_check),
        note=verification.note,
    )


def _check(value: str) -> Check:
    known: dict[str, Check] = {name: name for name in get_args(Check)}
    return known[value]


def _action(action: inside.Action) -> Action:
    return Action(
        id=action.id,
        action=action.action,
        params=dict(action.params),
        risk=action.risk,
        preview=action.preview,
        blast_radius=action.blast_radius,
        rollback=action.rollback,
        treats=action.treats,
        precheck=action.precheck or None,
        verify=action.verify or None,
    )


def _usage(usage: inside.Usage) -> Usage:
    return Usage(
        seconds=round(usage.seconds, 3),
        tool_calls=usage.tool_calls,
        model_calls=usage.model_calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
    )


def _chart(chart: inside.Chart) -> Chart:
    first = chart.times[0]
    return Chart(
        title=chart.title,
        unit=chart.unit,
        evidence=chart.evidence,
        start=moment(first),
        seconds=[round(time - first, 3) for time in chart.times],
        values=list(chart.values),
    )


def _crash(crash: inside.Crash) -> Crash:
    return Crash(
        host=crash.host,
        source=crash.source,
        tier=crash.tier,
        release=crash.release,
        time=None if crash.time is None else moment(crash.time),
        uptime=crash.uptime,
        message=crash.message,
        task=crash.task,
        stacks=[CrashStack(task=each.task, frames=list(each.frames)) for each in crash.stacks],
        waits=list(crash.waits),
    )
