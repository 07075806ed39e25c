"""From a crash to ranked causes: asks every playbook's clues, adds the log-odds, discounts what another cause explains.

Works with whatever the `Vmcore` holds; a log alone is enough for a first answer. What it cannot know stands in each
hypothesis' `would_confirm`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rca.model import Finding
from rca.scoring import posterior
from rca.vmcore import ending, faulting, spinning, waiting
from rca.vmcore.facts import Facts
from rca.vmcore.known import KnownCase, Match, matches
from rca.vmcore.playbook import Playbook
from rca.vmcore.told import told as crash_told
from wardround.ids import Prefix, new_id
from wardround.models.diagnosis import Crash, Culprit, Evidence, Hypothesis, RuledOut, SeverityLevel, Verdict
from wardround.models.vmcore import Vmcore
from wardround.redaction import redact

PLAYBOOKS: tuple[Playbook, ...] = (*faulting.PLAYBOOKS, *waiting.PLAYBOOKS, *spinning.PLAYBOOKS, *ending.PLAYBOOKS)
PRESENT = 0.5  # from here on the cause is told as found
CONFIRMED = 0.85
MENTIONED = 0.1
MOST = 6
SPEAKS = 0.25  # a smaller ratio says nothing either way
ENOUGH = 0.6  # of what a clue can say: one that said less may still be asked
STRONG = -1.2  # an answer that by itself excludes
_REPORTED = {
    "hung_task": "kernel.hung_task",
    "soft_lockup": "kernel.lockup",
    "hard_lockup": "kernel.lockup",
    "rcu_stall": "kernel.lockup",
    "oom": "kernel.out_of_memory",
    "null_pointer": "kernel.null_dereference",
    "refcount": "kernel.refcount",
    "sysrq": "kernel.panic_requested",
}
_LEVELS: tuple[SeverityLevel, ...] = ("none", "info", "warning", "critical")
_MOST_LEARNED = 300  # characters of a known case's cause or fix that are told


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a crash comes to. `actions` maps a hypothesis' id to the catalogue's names of what treats it, `answers` to
    what each clue's evidence (its id) says for it, as log-likelihood ratios; `crash` is what a report shows of it."""

    hypotheses: tuple[Hypothesis, ...]
    ruled_out: tuple[RuledOut, ...]
    evidence: tuple[Evidence, ...]
    actions: Mapping[str, tuple[str, ...]]
    known: tuple[Match, ...]
    severity: SeverityLevel
    summary: str
    crash: Crash
    answers: Mapping[str, Mapping[str, float]]


@dataclass
class _Candidate:
    """One fault with one culprit, its answers and what they are worth. `asked` maps clue to evidence id."""

    playbook: Playbook
    culprit: Culprit
    id: str
    ratios: dict[str, float] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def probability(self) -> float:
        return posterior(self.playbook.prior, self.ratios.values())

    @property
    def proven(self) -> bool:
        return all(self.ratios.get(clue.name, 0.0) > SPEAKS for clue in self.playbook.clues if clue.needed)

    def speaking(self, sign: float) -> tuple[str, ...]:
        told = sorted(((sign * r, self.asked[name]) for name, r in self.ratios.items()), reverse=True)
        return tuple(dict.fromkeys(number for ratio, number in told if ratio > SPEAKS))


def _fresh(prefix: Prefix, name: str) -> str:
    return new_id(prefix)


def classify(
    vmcore: Vmcore,
    when: float,
    cases: Iterable[KnownCase] = (),
    identify: Callable[[Prefix, str], str] = _fresh,
) -> Judgement:
    """Judge a crash. `when` is its Unix time as well as known (the file's, where the crash does not tell).

    `identify` gives a hypothesis or a piece of evidence its id from what it is about.
    """
    facts = Facts(vmcore, vmcore.header.time if vmcore.header.time is not None else when)
    evidence: dict[str, Evidence] = {}
    candidates = [
        _ask(facts, playbook, culprit, evidence, identify)
        for playbook in PLAYBOOKS
        for culprit in playbook.suspects(facts)
    ]
    known = matches(facts, cases)
    told = _known_evidence(facts, known, evidence, identify)
    standing = _settled(facts, _standing(candidates))
    seen = _seen(facts, candidates)
    hypotheses = tuple(_hypothesis(facts, c, p, told, seen) for c, p in standing if p >= MENTIONED)[:MOST]
    sure = [(c, h) for h in hypotheses for c, _ in standing if c.id == h.id and h.probability >= PRESENT]
    return Judgement(
        hypotheses=hypotheses,
        ruled_out=tuple(_ruled_out(standing, {fault for h in hypotheses for fault in h.explains})),
        evidence=tuple(evidence.values()),
        actions={c.id: c.playbook.actions for c, _ in standing if any(h.id == c.id for h in hypotheses)},
        known=known,
        severity=_severity(facts, sure, hypotheses),
        summary=_summary(facts, hypotheses),
        crash=crash_told(facts),
        answers={c.id: {c.asked[name]: ratio for name, ratio in c.ratios.items()} for c, _ in standing},
    )


def _ask(
    facts: Facts,
    playbook: Playbook,
    culprit: Culprit,
    evidence: dict[str, Evidence],
    identify: Callable[[Prefix, str], str],
) -> _Candidate:
    """Ask all clues; equal statements of several playbooks are one piece of evidence."""
    candidate = _Candidate(playbook, culprit, identify("hyp", f"{playbook.fault}|{culprit.kind}|{culprit.name}"))
    for clue in playbook.clues:
        finding = clue.measure(facts, culprit)
        if finding is None:
            continue
        same = next((e.id for e in evidence.values() if e.statement == finding.statement), None)
        number = same or identify("ev", f"vmcore|{clue.name}|{finding.statement}")
        if same is None:
            evidence[number] = _evidence(facts, number, clue.name, finding)
        candidate.asked[clue.name] = number
        candidate.ratios[clue.name] = clue.curve(finding.value)
        candidate.findings[clue.name] = finding
    return candidate


def _evidence(facts: Facts, number: str, feature: str, finding: Finding) -> Evidence:
    return Evidence(
        id=number,
        kind="vmcore",
        source=finding.source,
        statement=finding.statement,
        values=dict(finding.values),
        unit=finding.unit,
        reproduce=finding.reproduce,
        trust="kernel",
        start=facts.onset() or facts.when,
        end=facts.when,
        baseline=dict(finding.baseline),
        feature=feature,
    )


def _standing(candidates: Sequence[_Candidate]) -> list[tuple[_Candidate, float]]:
    """Probabilities that a fault is there and is a cause: what a likelier one brings about is discounted by it."""
    ranked = sorted(candidates, key=lambda c: (-c.probability, -sum(c.ratios.values()), c.playbook.fault))
    out = []
    for candidate in ranked:
        p = candidate.probability
        causes = [
            c
            for c in ranked
            if candidate.playbook.fault in c.playbook.symptoms and c.proven and c.probability >= PRESENT
        ]
        if not candidate.proven:
            p = min(p, 0.45)
        if causes and not (candidate.proven and _stronger(candidate, causes)):
            p *= 1.0 - 0.95 * max(c.probability for c in causes)
        out.append((candidate, p))
    return sorted(out, key=lambda pair: (-round(pair[1], 3), -sum(pair[0].ratios.values()), pair[0].playbook.fault))


def _stronger(candidate: _Candidate, causes: Sequence[_Candidate]) -> bool:
    """Where two faults may each bring the other about, the one with the better evidence is the cause."""
    mutual = [c for c in causes if c.playbook.fault in candidate.playbook.symptoms]
    weight = sum(candidate.ratios.values())
    return len(mutual) == len(causes) and all(weight >= sum(c.ratios.values()) for c in mutual)


def _seen(facts: Facts, candidates: Sequence[_Candidate]) -> frozenset[str]:
    """Faults that were really seen: found by their own evidence, or reported by the kernel."""
    found = {c.playbook.fault for c in candidates if c.proven and c.probability >= PRESENT}
    return frozenset(found | {_REPORTED[r.kind] for r in facts.vmcore.reports if r.kind in _REPORTED})


def _settled(facts: Facts, standing: list[tuple[_Candidate, float]]) -> list[tuple[_Candidate, float]]:
    """An oops in a known function has one of the causes of `faulting`: where none stands out, the odds share it out."""
    known = bool(standing) and not standing[0][0].culprit.name.startswith("unknown ")
    if (
        not known
        or facts.kind not in faulting.OOPSES
        or standing[0][1] >= PRESENT
        or standing[0][0].playbook not in faulting.PLAYBOOKS
    ):
        return standing
    odds = [p / (1.0 - p) for c, p in standing if c.playbook in faulting.PLAYBOOKS]
    share = min(max(odds[0] / sum(odds), PRESENT), CONFIRMED - 0.01)
    return [(standing[0][0], share), *((c, min(p, PRESENT - 0.01)) for c, p in standing[1:])]


def _hypothesis(
    facts: Facts, candidate: _Candidate, p: float, known: tuple[str, ...], seen: frozenset[str]
) -> Hypothesis:
    strong_objection = any(ratio < STRONG for ratio in candidate.ratios.values())
    named = not candidate.culprit.name.startswith("unknown ")
    sure = p >= CONFIRMED and candidate.proven and not strong_objection and named
    verdict: Verdict = "confirmed" if sure else "likely" if p >= PRESENT and named else "possible"
    asks = [
        c.ask
        for c in candidate.playbook.clues
        if c.ask and candidate.ratios.get(c.name, 0.0) < ENOUGH * c.curve.support
    ]
    try:
        headline = candidate.playbook.headline(facts, candidate.culprit, candidate.findings)
    except KeyError:  # a finding that the sentence tells could not be measured
        headline = f"{candidate.culprit.name}: {candidate.playbook.fault}"
    return Hypothesis(
        id=candidate.id,
        fault=candidate.playbook.fault,
        culprit=candidate.culprit,
        probability=round(p, 3),
        verdict=verdict,
        onset=facts.onset() or facts.when,
        supporting=(*candidate.speaking(1.0), *(known if p >= PRESENT else ())),
        contradicting=candidate.speaking(-1.0),
        explains=tuple(s for s in candidate.playbook.symptoms if s in seen) if p >= PRESENT else (),
        causal_chain=candidate.playbook.chain(facts, candidate.culprit),
        would_confirm=tuple(asks) if not sure else (),
        headline=redact(headline),
    )


def _ruled_out(standing: list[tuple[_Candidate, float]], explained: Collection[str]) -> Iterator[RuledOut]:
    """Faults whose clues speak against them; a symptom of what was found is not ruled out but explained."""
    against = [(c, p) for c, p in standing if p < MENTIONED and c.speaking(-1.0)]
    excluded = [(c, p) for c, p in against if c.playbook.fault not in explained]
    for candidate, _ in excluded[:MOST]:
        yield RuledOut(candidate.playbook.fault, candidate.speaking(-1.0)[:2], candidate.culprit.name)


def _severity(
    facts: Facts, sure: list[tuple[_Candidate, Hypothesis]], hypotheses: Sequence[Hypothesis]
) -> SeverityLevel:
    levels = [candidate.playbook.severity for candidate, _ in sure]
    if levels and facts.kind in ("requested", "warning"):
        return "critical"  # the code gave up: nobody asked for this crash
    if not levels:
        return "info" if hypotheses else "none"
    return max(levels, key=_LEVELS.index)


def _summary(facts: Facts, hypotheses: Sequence[Hypothesis]) -> str:
    if hypotheses and hypotheses[0].probability >= PRESENT:
        return hypotheses[0].headline
    if facts.panic is None and not facts.vmcore.log:
        return f"Nothing of the crash can be told: no kernel log could be read from the {facts.source}."
    if facts.panic is None:
        return f"The {facts.source} holds no report of a crash."
    stopped = redact(facts.panic.report or facts.panic.message)
    return f"The kernel stopped ({stopped}); the cause cannot be told from this."


def _learned(case: KnownCase) -> str:
    """What a case teaches, as the rest of a sentence."""
    parts = (("cause then: ", case.cause), ("fix then: ", case.fix), ("see ", case.source))
    return "".join(f"; {word}{text[:_MOST_LEARNED].rstrip('.')}" for word, text in parts if text)


def _known_evidence(
    facts: Facts,
    known: Sequence[Match],
    evidence: dict[str, Evidence],
    identify: Callable[[Prefix, str], str],
) -> tuple[str, ...]:
    """Known cases that look alike: told beside the rest, never counted."""
    numbers = []
    for match in known:
        finding = facts.finding(
            match.score,
            f"similar to the known case “{match.case.title}” (likeness {match.score:.0%}, "
            f"shared: {', '.join(match.shared[:6]) or 'none'}){_learned(match.case)}",
            match.shared[0] if match.shared else match.case.kind,
            {"likeness": match.score},
        )
        number = identify("ev", f"vmcore|known|{match.case.id}")
        evidence[number] = _evidence(facts, number, "known_case", finding)
        numbers.append(number)
    return tuple(numbers)
