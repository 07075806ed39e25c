"""What a tool is, the set of tools of a round, and the wrappers around that set.

Cross-cutting behaviour is a wrapper with the same two methods: `Only` shows a specialist its own tools, `Budgeted`
counts and refuses, `Cleaned` takes out secrets and control sequences, `Watched` tells the listener. A tool that
fails is answered by its name and reason, never by the end of the round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.events import Listener, RoundEvent
from agents.words import cleaned as cleaned
from rca.case import Case
from wardround.errors import UpstreamError
from wardround.models.diagnosis import Evidence
from wardround.redaction import plain as plain

log = structlog.get_logger(__name__)

# One call never returns more than this.
MOST_EVIDENCE = 200


class RefusedError(UpstreamError):
    """A planner asked for what it may not have: an unknown tool, wrong arguments, or more than the budget."""


class Arguments(BaseModel):
    """Base of all arguments: nothing beyond what the tool declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `name` is ``<specialist>.<what>``; `about` tells a planner what it answers."""

    name: str
    about: str
    arguments: type[Arguments]
    run: Callable[[Case, Any], list[Evidence]]

    @property
    def specialist(self) -> str:
        return self.name.partition(".")[0]


class Toolset(Protocol):
    """Tools by name, and a way to call one. `call` raises `RefusedError` where the call itself is wrong."""

    def tools(self) -> Mapping[str, Tool]: ...

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]: ...


class CaseTools:
    """The tools over one case, unrestricted."""

    def __init__(self, case: Case, tools: Mapping[str, Tool]) -> None:
        self.case = case
        self._tools = tools

    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]:
        tool = self._tools.get(name)
        if tool is None:
            raise RefusedError(f"there is no tool {name!r}")
        try:
            checked = tool.arguments.model_validate_json(_json(arguments))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise RefusedError(f"{name} was called wrongly", str(first["msg"])) from None
        return tool.run(self.case, checked)[:MOST_EVIDENCE]


def _json(arguments: Mapping[str, Any]) -> str:
    import json

    return json.dumps(dict(arguments))


@dataclass(frozen=True)
class Only:
    """The tools of one specialist."""

    inner: Toolset
    specialist: str

    def tools(self) -> Mapping[str, Tool]:
        return {name: tool for name, tool in self.inner.tools().items() if tool.specialist == self.specialist}

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]:
        if name not in self.tools():
            raise RefusedError(f"the {self.specialist} specialist has no tool {name!r}")
        return self.inner.call(name, arguments)


@dataclass
class Budgeted:
    """At most `limit` calls, `made` of them before."""

    inner: Toolset
    limit: int
    made: int = 0

    def tools(self) -> Mapping[str, Tool]:
        return self.inner.tools()

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]:
        if self.made >= self.limit:
            raise RefusedError("the budget of tool calls is spent", f"{self.limit} calls were made")
        self.made += 1
        return self.inner.call(name, arguments)


@dataclass(frozen=True)
class Cleaned:
    """Evidence without secrets and control sequences, also where the case keeps it."""

    inner: Toolset
    case: Case

    def tools(self) -> Mapping[str, Tool]:
        return self.inner.tools()

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]:
        found = [cleaned(evidence) for evidence in self.inner.call(name, arguments)]
        self.case.evidence.update((evidence.id, evidence) for evidence in found)
        return found


@dataclass(frozen=True)
class Watched:
    """Tells a listener of every call and of what it brought."""

    inner: Toolset
    listener: Listener

    def tools(self) -> Mapping[str, Tool]:
        return self.inner.tools()

    def call(self, name: str, arguments: Mapping[str, Any]) -> list[Evidence]:
        self.listener(RoundEvent("tool.started", {"tool": name}))
        found = self.inner.call(name, arguments)
        self.listener(RoundEvent("tool.finished", {"tool": name, "evidence": [e.id for e in found]}))
        for evidence in found:
            data = {"id": evidence.id, "kind": evidence.kind, "statement": evidence.statement}
            self.listener(RoundEvent("evidence.added", data))
        return found
