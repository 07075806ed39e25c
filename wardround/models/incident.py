"""The life of an incident: which state may follow which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from wardround.errors import UserError

State = Literal[
    "open", "investigating", "diagnosed", "awaiting_approval", "remediating", "verifying",
    "resolved", "rolled_back", "escalated", "closed",
]  # fmt: skip
STATES: tuple[State, ...] = get_args(State)

# A person may always take over (escalated) or end it (closed); what is closed stays closed.
_NEXT: dict[State, frozenset[State]] = {
    "open": frozenset({"investigating"}),
    "investigating": frozenset({"diagnosed", "open"}),
    "diagnosed": frozenset({"awaiting_approval", "investigating", "resolved"}),
    "awaiting_approval": frozenset({"remediating", "diagnosed"}),
    "remediating": frozenset({"verifying", "rolled_back"}),
    "verifying": frozenset({"resolved", "rolled_back"}),
    "resolved": frozenset({"open"}),
    "rolled_back": frozenset({"investigating", "diagnosed"}),
    "escalated": frozenset({"investigating", "resolved"}),
    "closed": frozenset(),
}


def may_follow(before: State, after: State) -> bool:
    """Return whether an incident may go from `before` to `after`."""
    if before == "closed":
        return False
    if after in ("escalated", "closed"):
        return before != after
    return after in _NEXT[before]


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of one host; times are Unix seconds, `fault` and `culprit` empty until diagnosed."""

    id: str
    host: str
    state: State
    opened: float
    changed: float
    title: str = ""
    fault: str = ""
    culprit: str = ""


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """One change of state: when, from what, to what, by whom, why."""

    incident_id: str
    time: float
    before: State | None
    after: State
    by: str
    reason: str = ""


def check_transition(before: State, after: State) -> None:
    """Refuse an illegal change of state. :raises UserError: naming what would be legal"""
    if may_follow(before, after):
        return
    legal = ", ".join(state for state in STATES if may_follow(before, state)) or "nothing"
    raise UserError(f"an incident that is {before} cannot become {after}", f"what may follow: {legal}")
