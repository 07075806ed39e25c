"""What a round tells while it goes on: named events with plain data, the same names on every surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

EventName = Literal[
    "run.started",
    "step.started",
    "tool.started",
    "tool.finished",
    "evidence.added",
    "hypothesis.updated",
    "usage",
    "run.finished",
]


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """One event; `data` holds only what JSON can carry."""

    name: EventName
    data: Mapping[str, Any]


Listener = Callable[[RoundEvent], None]


def nobody(event: RoundEvent) -> None:
    """Listen to nothing."""
