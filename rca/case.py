"""One round's case file: suspects, answers so far, what they are worth, and which question to ask next.

The planner (rules or model) decides the order; the arithmetic, and so the probabilities, are the same whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rca.model import FaultModel, Feature, Finding
from rca.scoring import expected_gain, posterior
from rca.view import View
from wardround.ids import Prefix, new_id
from wardround.models.diagnosis import Culprit, Evidence

# An answer with a smaller ratio says nothing either way.
SPEAKS = 0.25


@dataclass
class Candidate:
    """One suspect: a fault with a culprit. `asked` maps feature name to evidence id (None: could not be measured)."""

    model: FaultModel
    culprit: Culprit
    asked: dict[str, str | None] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    id: str = field(default_factory=lambda: new_id("hyp"))

    @property
    def key(self) -> str:
        pid = self.culprit.pid or ""
        return f"{self.model.fault}|{self.culprit.kind}|{self.culprit.name}|{pid}"

    @property
    def probability(self) -> float:
        return posterior(self.model.prior, self.ratios.values())

    def probability_if(self, ratios: Iterable[float]) -> float:
        """Return the probability if further answers had these log-likelihood ratios."""
        return posterior(self.model.prior, (*self.ratios.values(), *ratios))

    @property
    def supporting(self) -> tuple[str, ...]:
        return self._speaking(1.0)

    @property
    def contradicting(self) -> tuple[str, ...]:
        return self._speaking(-1.0)

    def _speaking(self, sign: float) -> tuple[str, ...]:
        told = [(sign * ratio, self.asked[name]) for name, ratio in self.ratios.items() if sign * ratio > SPEAKS]
        return tuple(evidence for _, evidence in sorted(told, key=lambda t: -t[0]) if evidence is not None)

    @property
    def proven(self) -> bool:
        """Whether every needed question was answered in favour."""
        return all(self.ratios.get(f.name, 0.0) > SPEAKS for f in self.model.features if f.needed)

    @property
    def onset(self) -> float | None:
        known = [f.onset for name, f in self.findings.items() if f.onset is not None and self.ratios[name] > SPEAKS]
        return min(known) if known else None


@dataclass(frozen=True)
class Test:
    """A tool to call about one candidate: the questions it answers and the bits it is expected to tell."""

    tool: str
    candidate: str
    features: tuple[str, ...]
    gain: float


def _fresh(prefix: Prefix, name: str) -> str:
    return new_id(prefix)


class Case:
    """Suspects and evidence of one round. Evidence is shared: a question about the host is measured once.

    `identify` gives a hypothesis or a piece of evidence its id from what it is about (default: a fresh one); `failed`
    are questions, ``<fault>.<feature>``, that broke instead of answering, with the reason.
    """

    def __init__(
        self, view: View, models: Iterable[FaultModel] = (), identify: Callable[[Prefix, str], str] = _fresh
    ) -> None:
        self.view = view
        self.identify = identify
        self.failed: dict[str, str] = {}
        self.candidates: dict[str, Candidate] = {}
        self.evidence: dict[str, Evidence] = {}
        self._measured: dict[tuple[int, tuple[str, str, int | None]], tuple[Finding, str] | None] = {}
        for model in models:
            self.admit(model)

    def admit(self, model: FaultModel) -> None:
        """Take in the suspects of one fault model."""
        for culprit in model.suspects(self.view):
            candidate = Candidate(model, culprit)
            candidate.id = self.identify("hyp", candidate.key)
            self.candidates.setdefault(candidate.key, candidate)

    def tests(self) -> list[Test]:
        """Return the tools not yet called about each candidate, the most telling first."""
        found = []
        for key, candidate in self.candidates.items():
            by_tool: dict[str, list[Feature]] = {}
            for feature in candidate.model.features:
                if feature.name not in candidate.asked:
                    by_tool.setdefault(feature.tool, []).append(feature)
            p = candidate.probability
            for tool, features in by_tool.items():
                gain = max(expected_gain(p, *feature.curve.odds) for feature in features)
                found.append(Test(tool, key, tuple(f.name for f in features), gain))
        return sorted(found, key=lambda test: (-test.gain, test.tool, test.candidate))

    def run(self, test: Test) -> list[Evidence]:
        """Ask a test's questions; return the new evidence."""
        candidate = self.candidates[test.candidate]
        new = []
        for name in test.features:
            evidence = self._ask(candidate, candidate.model.feature(name))
            if evidence is not None and evidence.id not in self.evidence:
                self.evidence[evidence.id] = evidence
                new.append(evidence)
        return new

    def _ask(self, candidate: Candidate, feature: Feature) -> Evidence | None:
        key = (id(feature.measure), candidate.culprit.key)
        if key not in self._measured:
            finding = feature.measure(self.view, candidate.culprit)
            number = self.identify("ev", f"{candidate.key}|{feature.name}")
            self._measured[key] = (finding, number) if finding is not None else None
        known = self._measured[key]
        if known is None:
            candidate.asked[feature.name] = None
            return None
        finding, number = known
        candidate.asked[feature.name] = number
        candidate.ratios[feature.name] = feature.curve(finding.value)
        candidate.findings[feature.name] = finding
        return self.evidence.get(number) or self._evidence(number, feature, finding)

    def _evidence(self, number: str, feature: Feature, finding: Finding) -> Evidence:
        observation = self.view.observation
        return Evidence(
            id=number,
            kind=finding.kind,
            source=finding.source,
            statement=finding.statement,
            values=dict(finding.values),
            unit=finding.unit,
            reproduce=finding.reproduce,
            trust=finding.trust,
            start=observation.start,
            end=observation.end,
            baseline=dict(finding.baseline),
            feature=feature.name,
            series=finding.series,
        )

    def ranked(self) -> list[Candidate]:
        """Return the candidates, the most probable first."""
        return sorted(self.candidates.values(), key=lambda c: (-c.probability, c.key))
