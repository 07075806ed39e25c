"""What is impossible in the memory of real crashes, and nothing where all is well."""

from __future__ import annotations

import pytest
from drgn.helpers.linux.pid import for_each_task

from collectors.vmcore.anomalies import Oddities, read_anomalies
from collectors.vmcore.log import read_log
from collectors.vmcore.modules import address_map
from collectors.vmcore.open import open_dump
from collectors.vmcore.reports import reports
from collectors.vmcore.statics import read_statics
from collectors.vmcore.work import read_work
from tests.vmcore.conftest import SERIES, Dump, Vmcores
from tests.vmcore.opened import opened

STACK_END_MAGIC = 0x57AC6E9D  # of the kernel's sched/task_stack.h


def looked(dump: Dump) -> Oddities:
    """As the section does: modules that are not the kernel's own, registers of the fault."""
    crash = opened(dump.path)
    fatal = next((one for one in reports(read_log(crash)) if one.context is not None), None)
    registers = fatal.context.registers if fatal is not None and fatal.context is not None else {}
    modules = [dump.expected["module"]] if dump.expected["module"] else []
    return read_anomalies(crash, address_map(crash), modules, registers)


# what each scenario did to memory, as (kind, words of the statement)
DONE = {
    "refcount": ("refcount_saturated", "uplink [flowctl]"),
    "uaf": ("freed_object", "freed by pool_conn_release [connpool]"),
    "listbug": ("list_deleted", "jobs+0x30 [dqueue]"),
    "stackover": ("stack_end", "kernel stack"),
}


def test_what_a_scenario_broke_is_found_and_nothing_else(dump: Dump) -> None:
    found = looked(dump).anomalies
    if dump.scenario not in DONE or (dump.scenario == "stackover" and not broken_stack_ends(dump)):
        assert [one.statement for one in found] == []
        return
    kind, words = DONE[dump.scenario]
    assert any(one.kind == kind and words in one.statement for one in found)
    allowed = {"refcount": {"impossible_state"}, "uaf": {"poison"}}.get(dump.scenario, set())
    assert {one.kind for one in found} <= {kind} | allowed


def broken_stack_ends(dump: Dump) -> list[str]:
    """Tasks whose mark at the end of the stack is gone: how far the last frame reached differs from run to run."""
    prog = opened(dump.path).prog
    ends = {task.comm.string_().decode(): prog.read_u64(task.stack.value_()) for task in for_each_task(prog)}
    return [name for name, mark in ends.items() if mark != STACK_END_MAGIC]


@pytest.mark.parametrize("series", SERIES)
def test_a_state_outside_its_enumeration_is_told(vmcores: Vmcores, series: str) -> None:
    """The dump alone tells the value; what it may be needs the module's types: its BTF, or its file."""
    dump = vmcores.get("refcount", series)
    ((name, value),) = dump.expected["globals"].items()
    found = looked(dump)
    assert {one.name: one.value for one in found.variables}[name] == value
    crash = open_dump(dump.path)
    crash.prog.load_debug_info([dump.modules / f"{dump.expected['module']}.ko"])
    typed = read_anomalies(crash, address_map(crash), [dump.expected["module"]])
    told = {one.subject: one for one in typed.anomalies}
    assert told[name].kind == "impossible_state"
    assert told[name].certainty == "derived"
    assert told["uplink.users"].kind == "refcount_saturated"


@pytest.mark.parametrize("series", SERIES)
def test_poison_in_a_register_is_told(vmcores: Vmcores, series: str) -> None:
    told = [one for one in looked(vmcores.get("uaf", series)).anomalies if one.kind == "poison"]
    assert any("0x6b" in one.statement and one.source.startswith("register") for one in told)


def test_static_variables_are_found_by_name(dump: Dump) -> None:
    if not dump.expected["module"]:
        pytest.skip("no module of ours took part")
    statics = read_statics(opened(dump.path), [dump.expected["module"]])
    found = {one.name for one in statics}
    assert set(dump.expected.get("locks", [])) <= found
    assert not {"__this_module"} & found
    assert all(one.size > 0 and one.module == dump.expected["module"] for one in statics)


@pytest.mark.parametrize(
    ("scenario", "function"),
    [("uaf", "pool_reap_work"), ("listbug", "dq_retire_work"), ("refcount", "flow_grant_work")],
)
@pytest.mark.parametrize("series", SERIES)
def test_a_work_item_that_crashed_is_running(vmcores: Vmcores, series: str, scenario: str, function: str) -> None:
    dump = vmcores.get(scenario, series)
    crash = opened(dump.path)
    (running,) = [one for one in read_work(crash, address_map(crash)) if one.task is not None]
    assert (running.function, running.module) == (function, dump.expected["module"])
    assert running.queue == "events"
