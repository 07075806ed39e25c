"""One round: an observation in, a diagnosis out. The command line and every other surface call this and nothing below.

`run_round` scans, opens the case, leads it through the supervisor graph and puts the diagnosis together. A killed
process leaves the round's recording behind: `unfinished` finds it and `resume` ends it with the same diagnosis.
Importing this module brings in langgraph (about 2 s of CPU on a slow core): import it while the window is observed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langsmith import tracing_context

from agents import checkpoint
from agents.assemble import assemble
from agents.context import RoundContext, open_tools
from agents.events import Listener, nobody
from agents.graph import MOST_STEPS, Graph, build
from agents.past import with_past
from agents.planner import Planner
from agents.rounds import claimed, run_id_of, unfinished
from agents.rule_planner import RulePlanner
from agents.state import RoundState
from collectors import recording
from detectors.scan import scan
from rca.case import Case
from rca.faults import all_models
from rca.view import View
from wardround import __version__
from wardround.errors import StateError
from wardround.ids import derived_id, new_id
from wardround.models.diagnosis import Diagnosis, Skipped
from wardround.models.observation import Observation
from wardround.settings import Settings

__all__ = ["resume", "run_round", "unfinished"]

log = structlog.get_logger(__name__)

Keep = Callable[[Diagnosis], None]


def run_round(
    observation: Observation,
    settings: Settings,
    *,
    run_id: str | None = None,
    on_event: Listener | None = None,
    keep: Keep | None = None,
    durable: bool = True,
) -> Diagnosis:
    """Diagnose an observation.

    `keep` is called with the diagnosis before the round counts as finished: store it there and a kill loses nothing.
    `durable` False keeps nothing of the round in the state folder (a replayed recording is its own record).
    A `run_id` seen before goes on where it stood.
    """
    run_id = run_id or new_id("run")
    notes: list[Skipped] = []
    with ExitStack() as stack:
        if durable:
            try:
                stack.enter_context(claimed(run_id, observation, settings.state_dir))
            except StateError as error:
                notes.append(Skipped("agents.resume", str(error).replace("\n", ": "), "make the state folder writable"))
        diagnosis = _lead(observation, settings, run_id, on_event or nobody, notes, durable=durable)
        if keep is not None:
            keep(diagnosis)
    return diagnosis


def resume(path: Path, settings: Settings, *, on_event: Listener | None = None, keep: Keep | None = None) -> Diagnosis:
    """End a round that a killed process left: `path` is one of `unfinished(settings.state_dir)`.

    :raises UserError: the recording cannot be read (remove it then)
    """
    return run_round(recording.load(path), settings, run_id=run_id_of(path), on_event=on_event, keep=keep)


def planner_for(settings: Settings) -> Planner:
    """Return the planner the settings ask for; a model's client is imported only when there is a model."""
    if not settings.model.configured:
        return RulePlanner()
    from agents.model_planner import ModelPlanner

    return ModelPlanner.over(settings)


def _lead(
    observation: Observation,
    settings: Settings,
    run_id: str,
    listener: Listener,
    notes: list[Skipped],
    *,
    durable: bool,
) -> Diagnosis:
    """Walk the graph with durable checkpoints, or in memory where they fail."""
    with closing(planner_for(settings)) as planner:
        if durable:
            try:
                with checkpoint.durable(settings.state_dir) as saver:
                    return _walk(observation, settings, run_id, planner, listener, saver, notes)
            except (sqlite3.Error, OSError) as error:
                log.warning("checkpoints_unavailable", why=str(error))
                reason = f"checkpoints could not be written ({error}): a killed round would start over"
                notes = [*notes, Skipped("agents.checkpoints", reason, "give the state folder some space, writable")]
        return _walk(observation, settings, run_id, planner, listener, checkpoint.in_memory(), notes)


def _walk(
    observation: Observation,
    settings: Settings,
    run_id: str,
    planner: Planner,
    listener: Listener,
    saver: BaseCheckpointSaver[Any],
    notes: list[Skipped],
) -> Diagnosis:
    # The version is part of the thread: another version's checkpoint is not read, its round starts over.
    config: RunnableConfig = {
        "configurable": {"thread_id": f"{run_id}/{__version__}"},
        "recursion_limit": MOST_STEPS,
        "max_concurrency": 1,  # the specialists share one case
    }
    graph = build(saver)
    stored: RoundState = {}
    if not isinstance(saver, type(checkpoint.in_memory())):
        stored = _stored(graph, config)
    context = _context(observation, settings, run_id, planner, listener, stored, notes)
    context.tell("run.started", suspects=len(context.case.candidates), resumed=bool(stored))
    # No environment variable may send a host's data to a tracing service.
    with tracing_context(enabled=False):
        state = stored
        if not stored.get("finished"):
            state = _invoke(graph, config, None if stored else {"run_id": run_id}, context)
        if not state.get("finished"):
            # Killed between two writes, the graph looks finished and is not: start over, nothing is lost by it.
            saver.delete_thread(str(config["configurable"]["thread_id"]))
            context = _context(observation, settings, run_id, planner, listener, {}, notes)
            state = _invoke(graph, config, {"run_id": run_id}, context)
    diagnosis = with_past(assemble(context, state, observation, notes), observation, settings)
    saver.delete_thread(str(config["configurable"]["thread_id"]))
    context.tell("run.finished", status=diagnosis.status, summary=diagnosis.summary)
    return diagnosis


def _invoke(graph: Graph, config: RunnableConfig, given: RoundState | None, context: RoundContext) -> RoundState:
    result = graph.invoke(given, config, context=context, durability="sync")
    return cast(RoundState, result or {})


def _stored(graph: Graph, config: RunnableConfig) -> RoundState:
    """Return the state a killed process left, empty where there is none or it cannot be read."""
    try:
        values = graph.get_state(config).values
    except (ValueError, TypeError, KeyError) as error:
        log.warning("checkpoint_unreadable", why=repr(error))
        return {}
    return cast(RoundState, values) if isinstance(values, dict) else {}


def _context(
    observation: Observation,
    settings: Settings,
    run_id: str,
    planner: Planner,
    listener: Listener,
    stored: RoundState,
    notes: list[Skipped],
) -> RoundContext:
    started = time.monotonic()
    case = open_case(observation, run_id, notes)
    return RoundContext(
        started=started,
        run_id=run_id,
        case=case,
        planner=planner,
        budget=settings.budget,
        tools=open_tools(case, settings.budget, listener, stored.get("calls", [])),
        listener=listener,
        spent=stored.get("spent", 0.0),
    )


def open_case(observation: Observation, run_id: str, notes: list[Skipped]) -> Case:
    """Return the case with every fault model's suspects; a model that breaks is left out and said."""
    view = View(observation, tuple(scan(observation)))
    case = Case(view, (), lambda prefix, name: derived_id(prefix, run_id, name))
    for model in all_models():
        try:
            case.admit(model)
        except Exception as error:  # noqa: BLE001 - tool boundary: one fault model that breaks leaves the others standing
            log.warning("fault_model_failed", fault=model.fault, error=repr(error))
            reason = f"its suspects could not be listed ({type(error).__name__}: {error})"
            skipped = Skipped(f"rca.{model.fault}", reason)
            if skipped not in notes:
                notes.append(skipped)
    return case
