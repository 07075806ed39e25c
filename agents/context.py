"""What the nodes of a round work with: the case, the tools, the planner, the budget, the listener.

It is passed to the graph as its context and never stored: a resumed round builds it anew and repeats the calls.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from agents.events import Listener, RoundEvent, nobody
from agents.planner import Planner
from agents.state import Call
from agents.tools import log, metric, topology, vmcore
from agents.tools.base import Budgeted, CaseTools, Cleaned, RefusedError, Tool, Toolset, Watched
from agents.tools.questions import question_tools
from rca.case import Case
from rca.conclude import Conclusion, conclude
from remediation.catalogue import propose
from wardround.ids import derived_id
from wardround.models.diagnosis import Action
from wardround.settings import Budget

# Treatments are proposed for what is at least this probable.
TREATED = 0.5


@dataclass
class RoundContext:
    """One round in one process. `spent` are the seconds of processes that died before."""

    run_id: str
    case: Case
    planner: Planner
    budget: Budget
    tools: Toolset
    listener: Listener = nobody
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)
    conclusion: Conclusion | None = None

    def seconds(self) -> float:
        """Return the seconds this round has taken, beside its window."""
        return self.spent + time.monotonic() - self.started

    def left(self) -> float:
        return max(self.budget.seconds - self.seconds(), 0.0)

    def tell(self, name: str, **data: object) -> None:
        self.listener(RoundEvent(name, {"run_id": self.run_id, **data}))  # type: ignore[arg-type]

    def judged(self) -> Conclusion:
        """Return the conclusion of the case, judged once."""
        if self.conclusion is None:
            self.conclusion = conclude(self.case)
        return self.conclusion

    def proposed(self) -> tuple[Action, ...]:
        """Return the treatments of every standing hypothesis, the same change once."""
        models = {candidate.id: candidate.model for candidate in self.case.candidates.values()}
        found: dict[tuple[str, str], Action] = {}
        for hypothesis in self.judged().hypotheses:
            if hypothesis.probability >= TREATED:
                for action in propose(
                    models[hypothesis.id].actions, hypothesis, self.case.view.observation, self._action_id
                ):
                    found.setdefault((action.action, str(sorted(action.params.items()))), action)
        return tuple(found.values())

    def _action_id(self, name: str) -> str:
        return derived_id("act", self.run_id, name)


def follow_ups(case: Case) -> tuple[Tool, ...]:
    """Return the tools that a planner may ask for detail; those about a crash only where one was read."""
    crash = vmcore.TOOLS if vmcore.crashes(case) else ()
    if vmcore.alone(case):
        return crash
    return (*metric.TOOLS, *log.TOOLS, *topology.TOOLS, *crash)


def open_tools(case: Case, budget: Budget, listener: Listener, before: Iterable[Call] = ()) -> Toolset:
    """Return the tools of a round, after repeating the calls of a killed process (silently, and counted)."""
    known = question_tools(candidate.model for candidate in case.candidates.values())
    known |= {tool.name: tool for tool in follow_ups(case)}
    counted = Budgeted(Cleaned(CaseTools(case, known), case), budget.tool_calls)
    for call in before:
        try:
            counted.call(call["tool"], call["arguments"])
        except RefusedError:
            continue  # it was refused the first time too
    return Watched(counted, listener)
