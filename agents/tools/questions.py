"""The questions of the fault models as tools: one tool a name in `Feature.tool`, asked about one or many suspects.

Their answers are the only ones that move probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from pydantic import Field

from agents.tools.base import Arguments, Tool
from rca.case import Candidate, Case, Test
from rca.model import FaultModel, Feature
from wardround.models.diagnosis import Evidence

log = structlog.get_logger(__name__)


class Suspects(Arguments):
    """Keys of the suspects to ask about, as the case lists them."""

    candidates: tuple[str, ...] = Field(min_length=1, max_length=200)


def question_tools(models: Iterable[FaultModel]) -> dict[str, Tool]:
    """Return the tools that the models' features name."""
    asked: dict[str, list[str]] = {}
    for model in models:
        for feature in model.features:
            asked.setdefault(feature.tool, []).append(feature.name)
    return {
        name: Tool(name, "answers " + ", ".join(sorted(set(features))), Suspects, _asker(name))
        for name, features in asked.items()
    }


def _asker(tool: str) -> _Ask:
    return _Ask(tool)


class _Ask:
    """Asks every open question of one tool about the given suspects; unknown suspects are passed over."""

    def __init__(self, tool: str) -> None:
        self.tool = tool

    def __call__(self, case: Case, arguments: Suspects) -> list[Evidence]:
        found: list[Evidence] = []
        for key in arguments.candidates:
            candidate = case.candidates.get(key)
            if candidate is not None:
                for feature in candidate.model.features:
                    if feature.tool == self.tool and feature.name not in candidate.asked:
                        found += self._one(case, candidate, feature)
        return found

    def _one(self, case: Case, candidate: Candidate, feature: Feature) -> list[Evidence]:
        try:
            return case.run(Test(self.tool, candidate.key, (feature.name,), 0.0))
        except Exception as error:  # noqa: BLE001 - tool boundary: one question that breaks leaves the others standing
            log.warning("question_failed", fault=candidate.model.fault, question=feature.name, error=repr(error))
            candidate.asked[feature.name] = None
            case.failed[f"{candidate.model.fault}.{feature.name}"] = f"{type(error).__name__}: {error}"
            return []
