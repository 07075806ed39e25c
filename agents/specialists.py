"""The specialists: each takes its own part of the plan and answers with its own tools."""

from __future__ import annotations

from typing import Any

import structlog

from agents.context import RoundContext
from agents.state import Call, RoundState
from agents.tools.base import Only, RefusedError

log = structlog.get_logger(__name__)

SPECIALISTS = ("metric", "log", "topology", "vmcore")


def visit(specialist: str, state: RoundState, context: RoundContext) -> dict[str, Any]:
    """Make the planned calls of one specialist. Calls that are refused are noted and not made again."""
    tools = Only(context.tools, specialist)
    made: list[Call] = []
    notes: list[str] = []
    for call in state["plan"]["calls"]:
        if call["tool"].partition(".")[0] != specialist:
            continue
        try:
            tools.call(call["tool"], call["arguments"])
        except RefusedError as refused:
            notes.append(f"{call['tool']} was not called: {refused.what}")
            log.info("tool_refused", tool=call["tool"], why=str(refused))
        made.append(call)
    return {"calls": made, "notes": notes, "visited": [specialist]}
