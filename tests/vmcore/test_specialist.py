"""The specialist's tools over a real dump."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.context import open_tools
from agents.events import nobody
from agents.tools.base import RefusedError
from agents.words import MOST_TEXT
from rca.case import Case
from rca.ground import grounded
from rca.view import View
from tests.agents import crashes, observations
from tests.vmcore.conftest import Vmcores
from wardround.models.vmcore import PastCrash
from wardround.settings import Budget


def test_a_real_dump_answers_for_structures_and_variables(vmcores: Vmcores) -> None:
    dump = vmcores.get("abba", "6.12")
    vmcore = replace(crashes.deadlock(str(dump.path)), variables=())
    observation = replace(
        observations.healthy(), crashes=(PastCrash(crashes.CRASHED, str(dump.path), vmcore=vmcore, size=1),)
    )
    tools = open_tools(Case(View(observation)), Budget(), nobody)
    (variable,) = tools.call("vmcore.variable", {"name": "init_task"})
    assert variable.statement.startswith("init_task at 0x")
    address = variable.statement.split()[2].rstrip(":")
    (structure,) = tools.call("vmcore.struct", {"type": "task_struct", "address": address})
    assert "struct task_struct" in structure.statement
    assert all(len(e.statement) <= MOST_TEXT and grounded(e.statement, [e]) for e in (variable, structure))
    with pytest.raises(RefusedError):
        tools.call("vmcore.variable", {"name": "no_such_variable_at_all"})
