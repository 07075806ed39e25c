"""From a finished case to what is said: hypotheses in order, their verdicts, what was ruled out, the headline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rca.case import SPEAKS, Candidate, Case
from rca.causal import Explained, explain
from rca.ground import grounded
from rca.topology import related
from rca.view import View, filled
from wardround.models.diagnosis import Chart, Evidence, Hypothesis, RuledOut, SeverityLevel, Status, Verdict

PRESENT = 0.5  # from here on a fault is reported as a problem
CONFIRMED = 0.85
MENTIONED = 0.1  # below this a hypothesis is not worth a line
MOST = 6  # hypotheses, and ruled-out faults, in a report
STRONG = -1.2  # an answer that by itself excludes


@dataclass(frozen=True)
class Conclusion:
    """What a case comes to; `agents.round` adds actions, usage and coverage."""

    hypotheses: tuple[Hypothesis, ...]
    ruled_out: tuple[RuledOut, ...]
    status: Status
    severity: SeverityLevel
    summary: str
    causal_check: str
    grounding_check: str
    charts: tuple[Chart, ...]


def conclude(case: Case) -> Conclusion:
    """Judge a case as it stands: callable at any moment, so a spent budget still gives a conclusion."""
    view = case.view
    ranked = _distinct(view, case.ranked())
    links = explain(view, ranked)
    standing = _standing(ranked, links)
    hypotheses = tuple(_hypothesis(case, c, p, links) for c, p in standing if p >= MENTIONED)[:MOST]
    sure = [c for c, p in standing if p >= PRESENT]
    told = [line for c in sure if (line := headline(c))]
    ground = all(grounded(e.statement, [e]) for e in _cited(case, hypotheses))
    return Conclusion(
        hypotheses=hypotheses,
        ruled_out=tuple(_ruled_out(case, sure)),
        status="problem" if sure else _quiet_status(view),
        severity=_severity(hypotheses, sure),
        summary=_summary(told) if told else _quiet_summary(view),
        causal_check=_causal_check(sure, links),
        grounding_check="passed" if ground else "failed",
        charts=tuple(_charts(case, sure)),
    )


def headline(candidate: Candidate) -> str:
    """Return the cause in a sentence; where that needs a finding that could not be measured, the fault's name."""
    try:
        return candidate.model.headline(candidate.culprit, candidate.findings)
    except KeyError:
        return f"{candidate.culprit.name}: {candidate.model.fault}"


def _distinct(view: View, ranked: list[Candidate]) -> list[Candidate]:
    """One culprit a fault, unless two unrelated ones both stand."""
    kept: list[Candidate] = []
    for candidate in ranked:
        rivals = [k for k in kept if k.model.fault == candidate.model.fault]
        if not rivals or (
            candidate.probability >= PRESENT
            and candidate.proven
            and not any(related(view, rival.culprit, candidate.culprit) for rival in rivals)
        ):
            kept.append(candidate)
    return kept


def _standing(ranked: list[Candidate], links: list[Explained]) -> list[tuple[Candidate, float]]:
    """Probabilities that a fault is present *and* a cause: what is explained by another is discounted by it."""
    cause_of = {link.symptom.key: link.cause for link in links}
    out = []
    for candidate in ranked:
        p = candidate.probability
        if (cause := cause_of.get(candidate.key)) is not None:
            p *= 1.0 - 0.95 * cause.probability
        elif not candidate.proven:
            p = min(p, 0.45)  # a needed answer is missing or negative
        out.append((candidate, p))
    return sorted(out, key=lambda pair: (-round(pair[1], 3), -sum(pair[0].ratios.values()), pair[0].key))


def _verdict(candidate: Candidate, p: float) -> Verdict:
    strong_objection = any(ratio < STRONG for ratio in candidate.ratios.values())
    if p >= CONFIRMED and candidate.proven and not strong_objection:
        return "confirmed"
    return "likely" if p >= PRESENT else "possible"


def _hypothesis(case: Case, candidate: Candidate, p: float, links: list[Explained]) -> Hypothesis:
    symptoms = [link.symptom for link in links if link.cause is candidate]
    seen = case.view.window.names()
    return Hypothesis(
        id=candidate.id,
        fault=candidate.model.fault,
        culprit=candidate.culprit,
        probability=round(p, 3),
        verdict=_verdict(candidate, p),
        onset=candidate.onset,
        supporting=candidate.supporting,
        contradicting=candidate.contradicting,
        explains=tuple(m for m in candidate.model.effects if m in seen) + tuple(s.model.fault for s in symptoms),
        causal_chain=candidate.model.chain + tuple(headline(s) for s in symptoms),
        would_confirm=tuple(_open_questions(candidate)) if p < CONFIRMED or not candidate.proven else (),
        headline=headline(candidate),
    )


def _open_questions(candidate: Candidate) -> Iterator[str]:
    for feature in candidate.model.features:
        if feature.ask and candidate.ratios.get(feature.name, 0.0) <= SPEAKS:
            yield feature.ask


def _cited(case: Case, hypotheses: tuple[Hypothesis, ...]) -> list[Evidence]:
    ids = {i for h in hypotheses for i in (*h.supporting, *h.contradicting)}
    return [case.evidence[i] for i in sorted(ids) if i in case.evidence]


def _ruled_out(case: Case, sure: list[Candidate]) -> Iterator[RuledOut]:
    """Faults whose evidence was looked at and speaks against them; neighbours of what was found first."""
    found = {c.model.fault for c in sure}
    families = {fault.partition(".")[0] for fault in found}
    best: dict[str, Candidate] = {}
    for candidate in case.ranked():
        best.setdefault(candidate.model.fault, candidate)
    excluded = [c for fault, c in best.items() if fault not in found and c.probability < MENTIONED and c.contradicting]
    excluded.sort(key=lambda c: (c.model.fault.partition(".")[0] not in families, -c.probability))
    for candidate in excluded[:MOST]:
        yield RuledOut(candidate.model.fault, candidate.contradicting[:2], candidate.culprit.name)


def _severity(hypotheses: tuple[Hypothesis, ...], sure: list[Candidate]) -> SeverityLevel:
    order: tuple[SeverityLevel, ...] = ("none", "info", "warning", "critical")
    levels = [c.model.severity for c in sure]
    if not levels:
        return "info" if hypotheses else "none"
    return max(levels, key=order.index)


def _quiet_status(view: View) -> Status:
    """Nothing found is only ``ok`` where the basic sources were there to find it."""
    window = view.window
    looked = {"system.cpu.time", "system.memory.usage", "process.cpu.time"} <= window.names()
    return "ok" if looked and len(window.times) >= 3 else "degraded"


def _summary(told: list[str]) -> str:
    if len(told) == 1:
        return told[0]
    return f"{len(told)} independent faults: " + " ".join(f"({n}) {line}" for n, line in enumerate(told, 1))


def _quiet_summary(view: View) -> str:
    window = view.window
    if _quiet_status(view) != "ok":
        return "Too little could be observed to say whether this host is healthy; the coverage says what was missing."
    busy = 1.0 - view.idle
    available = window.last("system.memory.usage", state="available")
    return (
        f"Nothing wrong was found in {view.seconds:.0f} s: CPUs {busy:.0%} busy, "
        f"{available / 2**30:.1f} GiB memory available; "
        f"{len(view.users)} processes and {len(window.series)} series were looked at."
    )


def _causal_check(sure: list[Candidate], links: list[Explained]) -> str:
    """Links are only made in causal order, so it fails where a model's cause began after something it brings about."""
    if not sure:
        return "not_applicable"
    late = [
        other
        for other in sure[1:]
        if other.model.fault in sure[0].model.symptoms and other.key not in {link.symptom.key for link in links}
    ]
    return "failed" if late else "passed"


def _charts(case: Case, sure: list[Candidate]) -> Iterator[Chart]:
    """The telling series of what was found, once each."""
    window = case.view.window
    told: set[str] = set()
    by_text = {str(series): column for column, series in enumerate(window.series)}
    for candidate in sure:
        for number in candidate.supporting:
            for text in case.evidence[number].series:
                if text in told or len(told) >= MOST:
                    continue
                told.add(text)
                column = by_text.get(text)
                name = text.partition("{")[0]
                if column is not None:
                    levels = filled(window.levels[:, [column]])[:, 0]
                elif window.columns(name):
                    levels = window.level(name)
                else:
                    continue
                if not np.nan_to_num(levels).any():
                    continue  # a flat line at zero tells nothing
                unit = window.series[column if column is not None else window.columns(name)[0]].metric
                shown = unit.unit + ("/s" if unit.kind == "counter" else "")
                yield Chart(
                    title=text,
                    unit=shown,
                    times=tuple(float(t) for t in window.times),
                    values=tuple(None if np.isnan(v) else float(v) for v in levels),
                    evidence=number,
                )
