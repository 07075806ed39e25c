"""The model planner: a language model leads the round, within what code allows.

It picks tests among those that are open, looks things up, ranks the suspects and explains. It cannot add a suspect,
move a probability, change an order against the evidence or have anything run. On its first failure the rules take over
for the rest of the round and the report says so; what it leaves unasked the rules ask before the case is judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from agents.context import follow_ups
from agents.model import answers, brief, claims
from agents.planner import Plan, Review, Spent
from agents.rule_planner import RulePlanner, batched
from agents.state import Call, ReviewState, RoundState
from agents.tools import vmcore
from agents.tools.base import Tool
from rca.case import Case, Test
from rca.conclude import Conclusion
from wardround.errors import UpstreamError
from wardround.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from agents.model.endpoint import Answer, Endpoint

log = structlog.get_logger(__name__)

# Visits that the model leads; then the rules ask what is left.
MOST_LED = 3
OFFERED = 16
LEAST_GAIN = 0.001
# Seconds kept back, so that the rules can end the round in time.
RESERVE = 2.0


class ModelPlanner:
    """Leads with one model; `tokens` is the round's budget for it."""

    def __init__(self, settings: ModelSettings, tokens: int) -> None:
        self.name = settings.model
        self._settings = settings
        self._tokens = tokens
        self._rules = RulePlanner()
        self._endpoint: Endpoint | None = None

    @classmethod
    def over(cls, settings: Settings) -> ModelPlanner:
        return cls(settings.model, settings.budget.tokens)

    def next(self, case: Case, state: RoundState, seconds: float) -> Plan:
        led = state.get("visits", 0)
        offered = [t for t in case.tests() if t.gain >= LEAST_GAIN][:OFFERED]
        # A crash is judged before the round: only look-ups are left to ask.
        if state.get("model_down") or led >= MOST_LED or not (offered or vmcore.alone(case)):
            return self._rules.next(case, state, seconds)
        question = brief.planning(case, [(_key(t), t.tool, t.candidate) for t in offered])
        schema = answers.next_schema(list(question.tests.keys), _looks(case))
        spent, answer = self._ask(question.text, schema, state, seconds)
        read = answers.read_next(answer) if isinstance(answer, dict) else None
        if read is None:
            why = answer if isinstance(answer, str) else "its answer has not the form that was asked for"
            return self._taken_over(case, state, seconds, spent, why)
        return self._chosen(case, state, seconds, question, offered, read, spent)

    def _chosen(
        self,
        case: Case,
        state: RoundState,
        seconds: float,
        question: brief.Brief,
        offered: list[Test],
        read: answers.NextAnswer,
        spent: Spent,
    ) -> Plan:
        by_key = {_key(test): test for test in offered}
        wanted = list(dict.fromkeys(read.tests))[: answers.MOST_TESTS]
        tests = [by_key[question.tests.keys[label]] for label in wanted if label in question.tests.keys]
        known = _looks(case)
        looks = [Call(tool=k.tool, arguments=k.arguments) for k in read.look[: answers.MOST_LOOKS] if k.tool in known]
        unknown = len(wanted) - len(tests) + sum(look.tool not in known for look in read.look)
        notes = (f"{self.name} asked for {unknown} tests or tools that do not exist: dropped",) if unknown else ()
        calls = (*batched(tests), *looks)
        if calls and not read.enough:
            return Plan(calls, done=False, by=self.name, why="chosen by the model", spent=spent, notes=notes)
        plan = self._rules.next(case, state, seconds)
        return Plan(plan.calls, plan.done, plan.by, plan.why, spent, notes)

    def _taken_over(self, case: Case, state: RoundState, seconds: float, spent: Spent, why: str) -> Plan:
        plan = self._rules.next(case, state, seconds)
        return Plan(plan.calls, plan.done, plan.by, plan.why, spent, (self._failed(why),), model_down=True)

    def review(self, case: Case, conclusion: Conclusion, state: RoundState, seconds: float) -> Review:
        if state.get("model_down"):
            return Review()
        by_id = {candidate.id: candidate for candidate in case.candidates.values()}
        shown = [by_id[hypothesis.id] for hypothesis in conclusion.hypotheses]
        question = brief.reviewing(case, shown)
        schema = answers.review_schema(list(question.candidates.keys), list(question.evidence.keys))
        spent, answer = self._ask(question.text, schema, state, seconds)
        read = answers.read_review(answer) if isinstance(answer, dict) else None
        if read is None:
            why = answer if isinstance(answer, str) else "its answer has not the form that was asked for"
            return Review(spent=spent, notes=(self._failed(why),), model_down=True)
        labels = {label: case.evidence[number] for label, number in question.evidence.keys.items()}
        faults = frozenset(candidate.model.fault for candidate in shown)
        names = " ".join(candidate.culprit.name for candidate in shown)
        kept, dropped = claims.checked(read.explanation[: answers.MOST_SENTENCES], labels, faults, names)
        known = [question.candidates.keys[c] for c in dict.fromkeys(read.ranking) if c in question.candidates.keys]
        notes = []
        if dropped:
            notes.append(f"{dropped} sentences of {self.name} were dropped: they say more than their evidence")
        if invented := len(set(read.ranking)) - len(known):
            notes.append(f"{self.name} ranked {invented} suspects that do not exist: dropped")
        if not known:
            return Review(spent=spent, notes=(*notes, self._failed("it ranked none of the suspects")))
        verdict = ReviewState(by=self.name, ranking=known, confidence=read.confidence, sentences=kept)
        return Review(verdict, spent, tuple(notes))

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()

    def _failed(self, why: str) -> str:
        return f"the model {self.name} gave no usable answer ({why}): the rule engine judged alone"

    def _ask(
        self, question: str, schema: dict[str, Any], state: RoundState, seconds: float
    ) -> tuple[Spent, dict[str, Any] | str]:
        """Return what the question cost, and the answer or in words why there is none."""
        if self._endpoint is None:
            from agents.model.endpoint import Endpoint  # loads the client: only where a model is asked

            self._endpoint = Endpoint(self._settings)
        used = state.get("input_tokens", 0) + state.get("output_tokens", 0)
        endpoint = self._endpoint
        before = (endpoint.calls, endpoint.input_tokens, endpoint.output_tokens)
        answer: dict[str, Any] | str
        try:
            found: Answer = endpoint.ask(
                brief.SYSTEM, question, schema, seconds=seconds - RESERVE, tokens=self._tokens - used
            )
            answer = found.value
        except UpstreamError as error:
            answer = error.what
        after = (endpoint.calls, endpoint.input_tokens, endpoint.output_tokens)
        return Spent(*(now - then for now, then in zip(after, before, strict=True))), answer


def _looks(case: Case) -> dict[str, Tool]:
    return {tool.name: tool for tool in follow_ups(case)}


def _key(test: Test) -> str:
    return f"{test.tool}|{test.candidate}"
