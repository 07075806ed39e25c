"""What happened before the reboot: the last crash of a running host, told beside what is wrong with the host now.

A crash is over: its hypotheses stand behind the faults that are present, bear the time that ended them, and never
raise the severity beyond a warning. Whether a dump is of this very host is told by the name in it; that of another host
is shown and does not make this one a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from agents.crash import actions, judge
from rca.vmcore.classify import PRESENT, Judgement
from wardround.ids import derived_id
from wardround.models.diagnosis import (
    Action,
    Coverage,
    Diagnosis,
    Evidence,
    Hypothesis,
    SeverityLevel,
    Skipped,
    Status,
    Vote,
)
from wardround.models.observation import Observation
from wardround.models.vmcore import PastCrash, Vmcore
from wardround.settings import Settings

MOST = 2  # hypotheses of the crash in a report
_LATE = 60.0  # seconds by which the clocks of a crash and of the boot after it may differ
_RANK: tuple[SeverityLevel, ...] = ("none", "info", "warning", "critical")


@dataclass(frozen=True, slots=True)
class _Past:
    """One crash of the past. `ours` unless its dump names another host; `rebooted` where it was before this boot."""

    crash: PastCrash
    vmcore: Vmcore
    ours: bool
    rebooted: bool

    @property
    def told(self) -> str:
        """``The host crashed at 2026-11-22 14:03:12 UTC and was rebooted since``."""
        who = "The host" if self.ours else f"Another host ({self.vmcore.header.hostname})"
        after = " and was rebooted since" if self.rebooted and self.ours else ""
        at = datetime.fromtimestamp(self.crash.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{who} crashed at {at}{after}"


def with_past(diagnosis: Diagnosis, observation: Observation, settings: Settings) -> Diagnosis:
    """Return the diagnosis with the last crash that was read told in it; as it is where none was."""
    past = _last(observation)
    if past is None:
        return diagnosis
    judged = judge(past.vmcore, settings, past.crash.time, diagnosis.run_id)
    proposed = actions(_of_host(judged), observation, partial(derived_id, "act", diagnosis.run_id))
    told = tuple(_of_the_past(hypothesis, past) for hypothesis in judged.hypotheses[:MOST])
    present = [h for h in diagnosis.hypotheses if h.verdict != "possible"]
    possible = [h for h in diagnosis.hypotheses if h.verdict == "possible"]
    known = {evidence.id for evidence in diagnosis.evidence}
    status, severity = _state(diagnosis, past)
    return replace(
        diagnosis,
        status=status,
        severity=severity,
        incident_id=diagnosis.incident_id or (_incident(diagnosis) if status == "problem" else ""),
        summary=_summary(diagnosis, past, judged),
        hypotheses=(*present, *told, *possible),
        evidence=(*diagnosis.evidence, *(each for each in _cited(judged, told) if each.id not in known)),
        verification=replace(
            diagnosis.verification,
            votes=(
                *diagnosis.verification.votes,
                *(Vote("rules", h.fault, h.probability) for h in told if h.probability >= PRESENT),
            ),
        ),
        actions=_distinct((*diagnosis.actions, *proposed)),
        coverage=_coverage(diagnosis.coverage, past.vmcore),
        crash=judged.crash,
    )


def _last(observation: Observation) -> _Past | None:
    for crash in observation.crashes:
        if crash.vmcore is not None:
            boot = observation.host.boot_time
            return _Past(
                crash,
                crash.vmcore,
                ours=_same(crash.vmcore.header.hostname, observation.host.name),
                rebooted=not boot or crash.time <= boot + _LATE,
            )
    return None


def _same(crashed: str, host: str) -> bool:
    """Whether two names may be one host's; a kernel that crashed early had none yet."""
    if crashed in ("", "(none)", "localhost"):
        return True
    return crashed.partition(".")[0].casefold() == host.partition(".")[0].casefold()


def _of_the_past(hypothesis: Hypothesis, past: _Past) -> Hypothesis:
    headline = f"{past.told}: {hypothesis.headline}"
    return replace(hypothesis, headline=headline, ended=past.crash.time)


def _state(diagnosis: Diagnosis, past: _Past) -> tuple[Status, SeverityLevel]:
    """A crash of this host is a problem to look into, a warning where nothing worse is present."""
    least: SeverityLevel = "warning" if past.ours else "info"
    severity = max(diagnosis.severity, least, key=_RANK.index)
    if diagnosis.status == "problem" or not past.ours:
        return diagnosis.status, severity
    return "problem", severity


def _summary(diagnosis: Diagnosis, past: _Past, judged: Judgement) -> str:
    crash = f"{past.told}: {judged.summary.partition(': ')[0].rstrip('.')}."  # its proof stands with the hypothesis
    if diagnosis.status == "problem":
        return f"{diagnosis.summary} Before that: {crash}"
    if past.ours:
        return f"{crash} Now: {diagnosis.summary}"
    return f"{diagnosis.summary} A dump lies here: {crash}"


def _of_host(judged: Judgement) -> Judgement:
    """Leave the actions on the host as a whole: tasks of the crash and their ids are of another boot."""
    kept = {number: tuple(n for n in names if n.startswith("host.")) for number, names in judged.actions.items()}
    return replace(judged, actions=kept)


def _cited(judged: Judgement, told: Sequence[Hypothesis]) -> list[Evidence]:
    ids = {number for h in told for number in (*h.supporting, *h.contradicting)}
    return [evidence for evidence in judged.evidence if evidence.id in ids]


def _distinct(proposed: Sequence[Action]) -> tuple[Action, ...]:
    found: dict[tuple[str, str], Action] = {}
    for action in proposed:
        found.setdefault((action.action, str(sorted(action.params.items()))), action)
    return tuple(found.values())


def _coverage(coverage: Coverage, vmcore: Vmcore) -> Coverage:
    """Name the parts of the dump that could not be read; what a log alone cannot tell goes without saying."""
    missed = () if vmcore.header.tier == "log" else vmcore.skipped
    return Coverage(coverage.ran, (*coverage.skipped, *(Skipped(each.name, each.reason) for each in missed)))


def _incident(diagnosis: Diagnosis) -> str:
    return derived_id("inc", diagnosis.run_id, "incident")
