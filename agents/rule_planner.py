"""The rule planner: ask what is expected to tell most, stop when nothing more could change the conclusion.

On each visit every open suspect gets its most telling tool, a standing one all that are left: what could still speak
against it must have been asked before it is believed. It cannot know what a fault model has no question for.
Measured: 0.2 ms for 60 suspects.
"""

from __future__ import annotations

from agents.planner import Plan, Review
from agents.state import Call, RoundState
from rca.case import Candidate, Case, Test
from rca.conclude import Conclusion

# Bits. An answer expected to tell less is not asked for its own sake.
WORTH = 0.004
# A suspect this probable gets every question it has.
STANDING = 0.3
# A suspect that cannot get beyond this, whatever the answers, is settled.
HOPELESS = 0.05


class RulePlanner:
    """Plans by expected information gain. It never reviews: its verdict is the conclusion itself."""

    name = "rules"

    def next(self, case: Case, state: RoundState, seconds: float) -> Plan:
        calls = batched(worthwhile(case))
        return Plan(calls, done=not calls, by=self.name, why=f"{len(calls)} tools could still change the ranking")

    def review(self, case: Case, conclusion: Conclusion, state: RoundState, seconds: float) -> Review:
        return Review()

    def close(self) -> None:
        """Hold nothing open."""


def worthwhile(case: Case) -> list[Test]:
    """Return the tests to make now, the most telling first."""
    chosen: list[Test] = []
    served: set[str] = set()
    for test in case.tests():
        candidate = case.candidates[test.candidate]
        if candidate.probability >= STANDING:
            chosen.append(test)
        elif test.candidate not in served and test.gain >= WORTH and not hopeless(candidate):
            chosen.append(test)
            served.add(test.candidate)
    return chosen


def hopeless(candidate: Candidate) -> bool:
    """Whether even the best answers to all open questions would leave the suspect improbable."""
    open_support = [f.curve.support for f in candidate.model.features if f.name not in candidate.asked]
    return candidate.probability_if(open_support) < HOPELESS


def batched(tests: list[Test]) -> tuple[Call, ...]:
    """Fold tests into one call a tool, keeping their order."""
    by_tool: dict[str, list[str]] = {}
    for test in tests:
        by_tool.setdefault(test.tool, []).append(test.candidate)
    return tuple(Call(tool=tool, arguments={"candidates": keys}) for tool, keys in by_tool.items())
