"""The state of a round as the graph carries and stores it: plain data only, so that a checkpoint holds no objects.

Suspects and evidence are not in it. They follow from the observation and from `calls`, the tools called so far in
their order: a resumed process makes the same calls over the same observation and stands where the killed one stood.
"""

from __future__ import annotations

from operator import add
from typing import Annotated, Any, TypedDict


class Call(TypedDict):
    """One tool call: its name and its arguments, as the planner wrote them."""

    tool: str
    arguments: dict[str, Any]


class PlanState(TypedDict):
    """What the planner decided on its last visit. `why` is for people; `by` is ``rules`` or the model's name."""

    calls: list[Call]
    done: bool
    by: str
    why: str


class Sentence(TypedDict):
    """One checked sentence of an explanation, with the evidence it cites."""

    text: str
    evidence: list[str]


class ReviewState(TypedDict):
    """What a model said of the finished case. `ranking` are hypothesis ids; `confidence` is its own."""

    by: str
    ranking: list[str]
    confidence: float
    sentences: list[Sentence]


class RoundState(TypedDict, total=False):
    """All a round must remember. Lists marked with `add` grow; the rest is replaced by the node that writes it.

    `spent` are seconds used by processes that died; `finished` is our own terminal marker, since a graph
    without a next step may have been killed between two writes.
    """

    run_id: str
    suspects: int
    visits: int
    plan: PlanState
    calls: Annotated[list[Call], add]
    visited: Annotated[list[str], add]
    spent: float
    model_calls: Annotated[int, add]
    input_tokens: Annotated[int, add]
    output_tokens: Annotated[int, add]
    notes: Annotated[list[str], add]
    model_down: bool
    forced: str
    review: ReviewState
    finished: bool
