"""Symptoms under their cause: a cause starts no later than its effect, and a path leads from the one to the other."""

from __future__ import annotations

from dataclasses import dataclass

from rca.case import Candidate
from rca.topology import related
from rca.view import View

# Onsets are dated to a tick or two; two onsets this close have no order.
SAME_TIME = 3.0
# Below this a hypothesis explains nothing away, and below SUSPECTED it is nothing to explain.
STANDS, SUSPECTED = 0.5, 0.2


@dataclass(frozen=True, slots=True)
class Explained:
    """One symptom and the cause it goes under."""

    cause: Candidate
    symptom: Candidate


def in_order(cause: Candidate, symptom: Candidate) -> bool:
    """Whether the cause began no later than its symptom; unknown onsets (there before the window) do not object."""
    if cause.onset is None or symptom.onset is None:
        return True
    return cause.onset <= symptom.onset + SAME_TIME


def explain(view: View, ranked: list[Candidate]) -> list[Explained]:
    """Return which standing hypotheses are symptoms of which, each under its most probable cause."""
    found: list[Explained] = []
    under: dict[str, str] = {}
    for symptom in (c for c in ranked if c.probability >= SUSPECTED):
        for cause in ranked:
            if cause is symptom or cause.probability < STANDS or symptom.model.fault not in cause.model.symptoms:
                continue
            if _leads_to(under, symptom.key, cause.key):
                continue  # already the other way round: no circles
            if in_order(cause, symptom) and related(view, cause.culprit, symptom.culprit):
                found.append(Explained(cause, symptom))
                under[symptom.key] = cause.key
                break
    return found


def _leads_to(under: dict[str, str], start: str, key: str) -> bool:
    """Whether `key` is already explained, through others, by `start`."""
    seen = set()
    while key in under and key not in seen:
        seen.add(key)
        key = under[key]
        if key == start:
            return True
    return False
