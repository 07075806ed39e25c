"""A crash led through the supervisor's graph by a model: what it looks up, whether it agrees, how it explains.

The case is judged before: its suspects, probabilities and order are the rules'. The model asks the vmcore specialist
within the budgets, and its sentences are checked against the evidence like those about a running host. Importing this
module loads langgraph (about 2 s of CPU on a slow core).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from langchain_core.runnables import RunnableConfig
from langsmith import tracing_context

from agents.assemble import reranked, verification
from agents.checkpoint import in_memory
from agents.context import RoundContext, open_tools
from agents.crash import grounding
from agents.events import Listener
from agents.graph import MOST_STEPS, build
from agents.model_planner import ModelPlanner
from agents.state import RoundState
from rca.case import Candidate, Case
from rca.conclude import Conclusion
from rca.model import FaultModel
from rca.view import View
from rca.vmcore.classify import PLAYBOOKS, Judgement
from wardround.ids import derived_id
from wardround.models.diagnosis import Coverage, Diagnosis, Hypothesis, Usage
from wardround.models.observation import Observation
from wardround.settings import Settings


def explained(
    diagnosis: Diagnosis, judged: Judgement, observation: Observation, settings: Settings, listener: Listener
) -> Diagnosis:
    """Return the diagnosis with the model's opinion, its checked sentences and the evidence it looked up for them."""
    with closing(ModelPlanner.over(settings)) as planner:
        case = open_case(judged, observation, diagnosis.run_id)
        context = RoundContext(
            run_id=diagnosis.run_id,
            case=case,
            planner=planner,
            budget=settings.budget,
            tools=open_tools(case, settings.budget, listener),
            listener=listener,
            conclusion=_conclusion(diagnosis, judged),
        )
        config: RunnableConfig = {
            "configurable": {"thread_id": diagnosis.run_id},
            "recursion_limit": MOST_STEPS,
            "max_concurrency": 1,
        }
        # No environment variable may send a host's data to a tracing service.
        with tracing_context(enabled=False):
            graph = build(in_memory())
            state: RoundState = graph.invoke({"run_id": diagnosis.run_id}, config, context=context) or {}  # type: ignore[assignment]
        return _told(diagnosis, context, state)


def open_case(judged: Judgement, observation: Observation, run_id: str) -> Case:
    """Return the judged crash as a case: every question is answered, only look-ups are left."""
    case = Case(View(observation), (), lambda prefix, name: derived_id(prefix, run_id, name))
    case.evidence = {evidence.id: evidence for evidence in judged.evidence}
    for hypothesis in judged.hypotheses:
        answers = dict(judged.answers.get(hypothesis.id, {}))
        asked: dict[str, str | None] = {number: number for number in answers}
        candidate = Candidate(_model(hypothesis, judged), hypothesis.culprit, asked, answers, id=hypothesis.id)
        case.candidates[candidate.key] = candidate
    return case


def _model(hypothesis: Hypothesis, judged: Judgement) -> FaultModel:
    playbook = next(each for each in PLAYBOOKS if each.fault == hypothesis.fault)
    return FaultModel(
        fault=hypothesis.fault,
        culprit=playbook.culprit,
        prior=playbook.prior,
        suspects=lambda _: (),
        features=(),
        headline=lambda *_: hypothesis.headline,
        symptoms=playbook.symptoms,
        chain=hypothesis.causal_chain,
        severity=playbook.severity,
        actions=judged.actions.get(hypothesis.id, ()),
    )


def _conclusion(diagnosis: Diagnosis, judged: Judgement) -> Conclusion:
    return Conclusion(
        hypotheses=diagnosis.hypotheses,
        ruled_out=judged.ruled_out,
        status=diagnosis.status,
        severity=judged.severity,
        summary=judged.summary,
        causal_check="not_applicable",
        grounding_check=grounding(judged),
        charts=(),
    )


def _told(diagnosis: Diagnosis, context: RoundContext, state: RoundState) -> Diagnosis:
    review = state.get("review")
    sentences = review["sentences"] if review is not None else []
    known = {evidence.id for evidence in diagnosis.evidence}
    cited = dict.fromkeys(number for sentence in sentences for number in sentence["evidence"] if number not in known)
    looked_up = tuple(context.case.evidence[number] for number in cited if number in context.case.evidence)
    ran = ("agents.vmcore",) if "vmcore" in state.get("visited", []) else ()
    return replace(
        diagnosis,
        hypotheses=reranked(diagnosis.hypotheses, review["ranking"]) if review is not None else diagnosis.hypotheses,
        evidence=(*diagnosis.evidence, *looked_up),
        verification=verification(context, context.judged(), state),
        explanation=tuple(f"{sentence['text']} [{', '.join(sentence['evidence'])}]" for sentence in sentences),
        coverage=Coverage((*diagnosis.coverage.ran, *ran), diagnosis.coverage.skipped),
        usage=Usage(
            seconds=diagnosis.usage.seconds + context.seconds(),
            tool_calls=len(state.get("calls", [])),
            model_calls=state.get("model_calls", 0),
            input_tokens=state.get("input_tokens", 0),
            output_tokens=state.get("output_tokens", 0),
        ),
    )
