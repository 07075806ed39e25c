"""The contract of a planner: which tools to call next, and what it makes of the finished case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agents.state import Call, ReviewState, RoundState
from rca.case import Case
from rca.conclude import Conclusion


@dataclass(frozen=True, slots=True)
class Spent:
    """What a planner's thinking cost."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The next tool calls. `done` when nothing is left worth asking; `notes` are sentences for the report."""

    calls: tuple[Call, ...]
    done: bool
    by: str
    why: str = ""
    spent: Spent = Spent()
    notes: tuple[str, ...] = ()
    model_down: bool = False


@dataclass(frozen=True, slots=True)
class Review:
    """An opinion on the finished case; None as `verdict` where there is none to give."""

    verdict: ReviewState | None = None
    spent: Spent = Spent()
    notes: tuple[str, ...] = ()
    model_down: bool = False


class Planner(Protocol):
    """Leads a round. It proposes; budgets, tools and arithmetic are not its to change.

    `seconds` is the wall time left to the round.
    """

    name: str

    def next(self, case: Case, state: RoundState, seconds: float) -> Plan: ...

    def review(self, case: Case, conclusion: Conclusion, state: RoundState, seconds: float) -> Review: ...

    def close(self) -> None: ...
