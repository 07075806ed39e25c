"""From a walked graph to the diagnosis: hypotheses in their final order, cited evidence, votes, coverage, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.context import RoundContext
from agents.specialists import SPECIALISTS
from agents.state import RoundState
from agents.tools.base import plain
from agents.tools.vmcore import crashes
from agents.words import ALONE
from rca.conclude import Conclusion
from wardround.ids import derived_id
from wardround.models.diagnosis import (
    Coverage,
    Diagnosis,
    Evidence,
    Hypothesis,
    Skipped,
    Usage,
    Verification,
    Vote,
)
from wardround.models.observation import Observation

# A model may change the order of two hypotheses only while the odds of one are at most this many times the other's.
MARGIN = 3.0


def assemble(context: RoundContext, state: RoundState, observation: Observation, notes: Sequence[Skipped]) -> Diagnosis:
    """Return the finished diagnosis."""
    conclusion = context.judged()
    review = state.get("review")
    hypotheses = conclusion.hypotheses
    if review is not None:
        hypotheses = reranked(hypotheses, review["ranking"])
    sentences = review["sentences"] if review is not None else []
    cited = _cited(context, conclusion, state)
    return Diagnosis(
        run_id=context.run_id,
        incident_id=derived_id("inc", context.run_id, "incident") if conclusion.status == "problem" else "",
        host=observation.host.name,
        status=conclusion.status,
        severity=conclusion.severity,
        start=observation.start,
        end=observation.end,
        summary=plain(conclusion.summary),
        hypotheses=hypotheses,
        ruled_out=conclusion.ruled_out,
        evidence=tuple(cited),
        verification=verification(context, conclusion, state),
        actions=context.proposed(),
        coverage=_coverage(context, state, observation, notes),
        usage=Usage(
            seconds=context.seconds(),
            tool_calls=len(state.get("calls", [])),
            model_calls=state.get("model_calls", 0),
            input_tokens=state.get("input_tokens", 0),
            output_tokens=state.get("output_tokens", 0),
        ),
        charts=conclusion.charts,
        explanation=tuple(f"{sentence['text']} [{', '.join(sentence['evidence'])}]" for sentence in sentences),
    )


def reranked(hypotheses: tuple[Hypothesis, ...], ranking: Sequence[str]) -> tuple[Hypothesis, ...]:
    """Return the hypotheses in a model's order as far as the evidence allows; probabilities stay as they are.

    The next place goes to the one the model ranks best among those of the leading verdict whose odds are within
    `MARGIN` of the most probable that is left.
    """
    place = {number: rank for rank, number in enumerate(ranking)}
    left, ordered = list(hypotheses), list[Hypothesis]()
    while left:
        lead = left[0]
        free = [h for h in left if h.verdict == lead.verdict and _odds(h) * MARGIN >= max(_odds(o) for o in left)]
        chosen = min(free or [lead], key=lambda h: (place.get(h.id, len(place)), left.index(h)))
        ordered.append(chosen)
        left.remove(chosen)
    return tuple(ordered)


def _odds(hypothesis: Hypothesis) -> float:
    return hypothesis.probability / max(1.0 - hypothesis.probability, 1e-6)


def verification(context: RoundContext, conclusion: Conclusion, state: RoundState) -> Verification:
    """Return who agrees: a model's agreement verifies what the rules and the causal and grounding checks hold."""
    notes = [state["forced"] + ": the conclusion is forced, questions were left open"] if state.get("forced") else []
    notes += dict.fromkeys(state.get("notes", []))
    leading = [h for h in conclusion.hypotheses if h.probability >= 0.5] or list(conclusion.hypotheses[:1])
    votes = [Vote("rules", h.fault, h.probability) for h in leading]
    status = "unverified"
    review = state.get("review")
    by_id = {h.id: h for h in conclusion.hypotheses}
    if review is not None and review["ranking"]:
        first = by_id[review["ranking"][0]]
        votes.append(Vote(review["by"], first.fault, review["confidence"]))
        sound = "failed" not in (conclusion.causal_check, conclusion.grounding_check)
        if first not in leading:
            status = "contested"
            notes.insert(
                0, f"{review['by']} ranks {first.fault} ({first.culprit.name}) first, the rules {leading[0].fault}"
            )
        elif sound and first.verdict != "possible":
            status = "verified"
    if context.planner.name == "rules":
        notes.insert(0, ALONE)
    elif review is None and not conclusion.hypotheses:
        notes.append("there was no hypothesis to verify")
    return Verification(
        status=status,  # type: ignore[arg-type]
        votes=tuple(votes),
        causal_check=conclusion.causal_check,
        grounding_check=conclusion.grounding_check,
        note="; ".join(notes),
    )


def _cited(context: RoundContext, conclusion: Conclusion, state: RoundState) -> list[Evidence]:
    """Return the evidence that something in the diagnosis leans on, in the order it is first cited."""

    def ids() -> Iterable[str]:
        for hypothesis in conclusion.hypotheses:
            yield from (*hypothesis.supporting, *hypothesis.contradicting)
        for excluded in conclusion.ruled_out:
            yield from excluded.because
        for chart in conclusion.charts:
            yield chart.evidence
        review = state.get("review")
        for sentence in review["sentences"] if review is not None else []:
            yield from sentence["evidence"]

    return [context.case.evidence[number] for number in dict.fromkeys(ids()) if number in context.case.evidence]


def _coverage(context: RoundContext, state: RoundState, observation: Observation, notes: Sequence[Skipped]) -> Coverage:
    """Add to what observed the host which specialists judged it, and what broke on the way."""
    visited = set(state.get("visited", []))
    ran = [f"agents.{name}" for name in SPECIALISTS if name in visited]
    wanted = [name for name in SPECIALISTS if name != "vmcore" or crashes(context.case)]
    idle = [Skipped(f"agents.{name}", "no question needed it") for name in wanted if name not in visited]
    broken = [Skipped(f"rca.{name}", plain(why)) for name, why in sorted(context.case.failed.items())]
    return Coverage(
        ran=(*observation.coverage.ran, *ran),
        skipped=(*observation.coverage.skipped, *notes, *idle, *broken),
    )
