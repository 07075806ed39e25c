"""The supervisor graph: triage → plan → {metric, log, topology} → weigh → plan again, or verify → report → propose.

Nodes are idempotent: each works from the plain state and the context, so a node that a kill made run twice does no
harm. Measured with its checkpoints in SQLite: about 4 ms a step.
"""

from __future__ import annotations

from typing import Any, Protocol

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agents.context import RoundContext
from agents.rule_planner import worthwhile
from agents.specialists import SPECIALISTS, visit
from agents.state import PlanState, RoundState

# A planner that never comes to an end is stopped here.
MOST_VISITS = 12
# Steps the graph may take: three a visit, and the way in and out.
MOST_STEPS = 3 * MOST_VISITS + 8

Graph = CompiledStateGraph[RoundState, RoundContext, RoundState, RoundState]


class Node(Protocol):
    """One node: reads the state, works with the context, returns what changes."""

    def __call__(self, state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]: ...


def build(checkpointer: BaseCheckpointSaver[Any]) -> Graph:
    """Return the compiled graph over this checkpointer."""
    graph = StateGraph(RoundState, context_schema=RoundContext)
    graph.add_node("triage", triage)
    graph.add_node("plan", plan)
    for name in SPECIALISTS:
        graph.add_node(name, _specialist(name))
        graph.add_edge(name, "weigh")
    graph.add_node("weigh", weigh)
    graph.add_node("verify", verify)
    graph.add_node("report", report)
    graph.add_node("propose", propose)
    graph.add_edge(START, "triage")
    graph.add_edge("triage", "plan")
    graph.add_conditional_edges("plan", _whom, [*SPECIALISTS, "verify"])
    graph.add_edge("weigh", "plan")
    graph.add_edge("verify", "report")
    graph.add_edge("report", "propose")
    graph.add_edge("propose", END)
    return graph.compile(checkpointer=checkpointer)


def triage(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Count the suspects that the anomalies and the fault models brought up."""
    context = runtime.context
    context.tell("step.started", step="triage")
    return {"suspects": len(context.case.candidates), "visits": 0}


def plan(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Let the planner choose the next calls, within what the budget leaves."""
    context = runtime.context
    visits = state.get("visits", 0)
    context.tell("step.started", step="plan", visit=visits + 1)
    left = context.budget.tool_calls - len(state.get("calls", []))
    if (forced := _spent(context, visits, left)) is not None:
        # Only what a rule planner would still ask makes the end a forced one.
        open_questions = bool(worthwhile(context.case))
        ended = PlanState(calls=[], done=True, by="budget", why=forced)
        return {"plan": ended, "forced": forced if open_questions else ""}
    chosen = context.planner.next(context.case, state, context.left())
    calls = list(chosen.calls[:left])
    return {
        "plan": PlanState(calls=calls, done=not calls, by=chosen.by, why=chosen.why),
        "visits": visits + 1,
        "notes": list(chosen.notes),
        "model_down": state.get("model_down", False) or chosen.model_down,
        "model_calls": chosen.spent.model_calls,
        "input_tokens": chosen.spent.input_tokens,
        "output_tokens": chosen.spent.output_tokens,
    }


def _spent(context: RoundContext, visits: int, left: int) -> str | None:
    if left <= 0:
        return f"the budget of {context.budget.tool_calls} tool calls was spent"
    if context.left() <= 0:
        return f"the budget of {context.budget.seconds:g} s was spent"
    if visits >= MOST_VISITS:
        return f"the plan had not ended after {MOST_VISITS} visits"
    return None


def _whom(state: RoundState) -> list[str]:
    """Send the specialists that have a call in the plan; none left means the round can be judged."""
    wanted = {call["tool"].partition(".")[0] for call in state["plan"]["calls"]}
    return [name for name in SPECIALISTS if name in wanted] or ["verify"]


def _specialist(name: str) -> Node:
    def node(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
        runtime.context.tell("step.started", step=name)
        return visit(name, state, runtime.context)

    return node


def weigh(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Tell how the answers moved the probabilities."""
    context = runtime.context
    top = [
        {"id": c.id, "fault": c.model.fault, "culprit": c.culprit.name, "probability": round(c.probability, 4)}
        for c in context.case.ranked()[:5]
    ]
    context.tell("hypothesis.updated", hypotheses=top)
    return {"spent": context.seconds()}


def verify(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Judge the case, and ask the planner's opinion on it where there is something to have one on."""
    context = runtime.context
    context.tell("step.started", step="verify")
    conclusion = context.judged()
    if not conclusion.hypotheses:
        return {"spent": context.seconds()}
    review = context.planner.review(context.case, conclusion, state, context.left())
    update: dict[str, Any] = {
        "spent": context.seconds(),
        "notes": list(review.notes),
        "model_down": state.get("model_down", False) or review.model_down,
        "model_calls": review.spent.model_calls,
        "input_tokens": review.spent.input_tokens,
        "output_tokens": review.spent.output_tokens,
    }
    if review.verdict is not None:
        update["review"] = review.verdict
    return update


def report(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Tell the conclusion; it follows from the case, so nothing of it is stored."""
    context = runtime.context
    conclusion = context.judged()
    context.tell("step.started", step="report", status=conclusion.status, summary=conclusion.summary)
    return {"spent": context.seconds()}


def propose(state: RoundState, runtime: Runtime[RoundContext]) -> dict[str, Any]:
    """Propose treatments of what is probably there. They are proposals: nothing in this program runs them."""
    context = runtime.context
    context.tell("step.started", step="propose", actions=[action.action for action in context.proposed()])
    return {"spent": context.seconds(), "finished": True}
