"""What a model may answer: the schemas it is given and the forgiving reading of what came back.

The schema names every label that exists, so that a server which enforces it cannot invent one. A server that does
not is read all the same: what does not fit is dropped by its reader and counted, never repaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.tools.base import Tool

MOST_TESTS = 6
MOST_LOOKS = 2
MOST_SENTENCES = 6


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Look(_Answer):
    """A follow-up tool with its arguments, not yet checked against the tool's own."""

    tool: str = Field(max_length=60)
    arguments: dict[str, Any] = {}


class NextAnswer(_Answer):
    """Which tests and look-ups to make next."""

    tests: list[str] = Field(default=[], max_length=200)
    look: list[Look] = Field(default=[], max_length=50)
    enough: bool = False


class Claim(_Answer):
    """One sentence and the labels of the evidence under it."""

    sentence: str = Field(max_length=4000)
    evidence: list[str] = Field(default=[], max_length=200)


class ReviewAnswer(_Answer):
    """The order of the suspects and why."""

    ranking: list[str] = Field(default=[], max_length=200)
    confidence: float = Field(default=0.5, ge=0, le=1)
    explanation: list[Claim] = Field(default=[], max_length=200)


def read_next(value: Mapping[str, Any]) -> NextAnswer | None:
    """Return the answer, None where it does not have the form."""
    try:
        return NextAnswer.model_validate(value)
    except ValidationError:
        return None


def read_review(value: Mapping[str, Any]) -> ReviewAnswer | None:
    """Return the answer, None where it does not have the form."""
    try:
        return ReviewAnswer.model_validate(value)
    except ValidationError:
        return None


def next_schema(tests: list[str], tools: Mapping[str, Tool]) -> dict[str, Any]:
    """Return the schema of `NextAnswer` for these tests and follow-up tools (a union, one branch a tool)."""
    looks = [
        _object({"tool": {"const": name}, "arguments": _inlined(tool.arguments.model_json_schema())})
        for name, tool in sorted(tools.items())
    ]
    return {
        "title": "next_step",
        **_object(
            {
                "tests": _list(_one_of(tests), MOST_TESTS) if tests else _list({"type": "string"}, 0),
                "look": _list({"anyOf": looks}, MOST_LOOKS),
                "enough": {"type": "boolean"},
            }
        ),
    }


def review_schema(candidates: list[str], evidence: list[str]) -> dict[str, Any]:
    """Return the schema of `ReviewAnswer` for these suspects and this evidence."""
    claim = _object({"sentence": {"type": "string", "maxLength": 300}, "evidence": _list(_one_of(evidence), 4, 1)})
    return {
        "title": "review",
        **_object(
            {
                "ranking": _list(_one_of(candidates), len(candidates), 1),
                "confidence": {"type": "number"},
                "explanation": _list(claim, 4),
            }
        ),
    }


def _one_of(labels: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": labels}


def _list(items: dict[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an arguments schema without its prose."""
    return {key: value for key, value in schema.items() if key not in ("title", "description")}
