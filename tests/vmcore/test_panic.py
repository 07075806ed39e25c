"""How real crashes ended: class, function, faulting address, stack."""

from __future__ import annotations

import re

import pytest

from collectors.vmcore.log import read_log
from collectors.vmcore.open import Dump as Opened
from collectors.vmcore.open import load
from collectors.vmcore.panic import read_panic
from tests.vmcore.conftest import Dump, Vmcores
from tests.vmcore.opened import opened
from wardround.models.vmcore import Panic, plain

KINDS = {
    "nullptr": "null_pointer", "abba": "hung_task", "rwsem": "hung_task", "semaphore": "hung_task",
    "hung": "hung_task", "spinself": "soft_lockup", "spinabba": "soft_lockup", "oom": "oom",
    "listbug": "list_corruption", "uaf": "general_protection", "refcount": "refcount", "sysrq": "sysrq",
    "stackover": "stack_overflow", "stackprot": "stack_protector",
}  # fmt: skip
SERIES = pytest.mark.parametrize("series", ["6.1", "6.12"])
WITH_LOG = pytest.mark.parametrize("with_log", [True, False], ids=["log", "no log"])


def panic(vmcores: Vmcores, scenario: str, series: str, with_log: bool = True) -> Panic:
    dump = opened(vmcores.get(scenario, series).path)
    found = read_panic(dump, log=read_log(dump) if with_log else ())
    assert found is not None
    return found


def test_class_function_and_task_are_told_with_and_without_the_log(dump: Dump) -> None:
    found = opened(dump.path)
    log = read_log(found)
    for lines in (log, ()):
        told = read_panic(found, log=lines)
        assert told is not None
        assert told.kind == KINDS[dump.scenario]
        # the CPU may have paused within a thunk: then the stack misses the frame of panic()
        names = [frame.function for frame in told.stack[:3]]
        assert "panic" in names or names[0].startswith("__x86_indirect_thunk")
        assert told.task
        assert told.cpu in (0, 1)
        assert told.certainty == "derived"
        assert told.tainted == ("GOE" if dump.expected["module"] else "") or set(told.tainted) <= set("GDOELW")
        expected = dump.expected.get("function", "")
        if told.function and expected and told.kind != "soft_lockup":
            assert (told.function, told.module) == (expected, dump.expected["module"])
    message = re.search(r"Kernel panic - not syncing: (.*)", dump.log.read_text("utf-8", "replace"))
    assert message is not None
    assert read_panic(found, log=log).message == message[1].strip()  # type: ignore[union-attr]


def test_the_log_s_class_is_believed_before_the_stack_s(vmcores: Vmcores) -> None:
    dump = opened(vmcores.get("nullptr").path)
    told = read_panic(dump, "use_after_free")
    assert told is not None
    assert (told.kind, told.certainty) == ("use_after_free", "read")


@SERIES
@WITH_LOG
def test_registers_are_those_of_the_fault_and_not_of_the_panic_s_loop(
    vmcores: Vmcores, series: str, with_log: bool
) -> None:
    """Against what the kernel itself printed when it happened."""
    told = panic(vmcores, "nullptr", series, with_log)
    text = vmcores.get("nullptr", series).log.read_text("utf-8", "replace")
    assert told.context is not None
    for name in ("RAX", "RBX", "RDI", "R08", "R12"):
        printed = re.search(rf"\b{name}: ([0-9a-f]{{16}})", text)
        assert printed is not None
        assert told.context.registers[name] == int(printed[1], 16)
    stack_pointer = re.search(r"RSP: 0018:([0-9a-f]{16})", text)
    assert stack_pointer is not None
    assert told.context.registers["RSP"] == int(stack_pointer[1], 16)
    assert told.context.function == "ringstat_drain_channel"


@SERIES
@WITH_LOG
def test_a_null_pointer_is_explained_to_the_member(vmcores: Vmcores, series: str, with_log: bool) -> None:
    context = panic(vmcores, "nullptr", series, with_log).context
    assert context is not None
    assert context.address == 0x8
    assert context.access == "read"
    assert "a null pointer plus 0x8" in context.meaning
    assert "RAX+0x8" in context.meaning
    assert context.registers["CR2"] == 0x8


@SERIES
@WITH_LOG
def test_a_call_through_a_freed_pointer_is_unwound_from_its_caller(
    vmcores: Vmcores, series: str, with_log: bool
) -> None:
    """What the unwinder finds behind the bad address may look plausible: it must not be there."""
    told = panic(vmcores, "uaf", series, with_log)
    context = told.context
    assert context is not None
    assert context.repaired
    assert context.address == 0x6B6B6B6B6B6B6B6B
    assert context.access == "execute"
    assert "freed slab memory" in context.meaning
    assert (context.function, context.module) == ("pool_conn_put", "connpool")
    at = next(n for n, frame in enumerate(told.stack) if frame.exception)
    names = [plain(frame.function) for frame in told.stack[at:]]
    assert names[:3] == ["pool_conn_put", "pool_reap_slots", "pool_reap_work"]
    assert names[3:7] == ["process_one_work", "worker_thread", "kthread", "ret_from_fork"]


def test_a_register_that_points_to_a_freed_object_is_told(vmcores: Vmcores) -> None:
    context = panic(vmcores, "uaf", "6.1", with_log=False).context
    assert context is not None
    assert "a freed object of the slab cache" in context.meaning


@SERIES
@WITH_LOG
def test_a_stack_overflow_names_the_guard_page_and_the_recursion(vmcores: Vmcores, series: str, with_log: bool) -> None:
    told = panic(vmcores, "stackover", series, with_log)
    assert told.context is not None
    assert "the guard page below the stack of cat" in told.context.meaning
    assert told.function == "routetree_walk"
    assert len(told.stack) <= 256


@SERIES
def test_a_smashed_stack_ends_where_its_addresses_stop_being_code(vmcores: Vmcores, series: str) -> None:
    told = panic(vmcores, "stackprot", series)
    assert told.stack[-1].function == "label_decode"
    assert told.context is None


@SERIES
@pytest.mark.parametrize("scenario", ["abba", "oom", "sysrq"])
def test_where_nothing_faulted_there_are_no_registers_of_a_fault(vmcores: Vmcores, scenario: str, series: str) -> None:
    told = panic(vmcores, scenario, series)
    assert told.context is None
    assert not any(frame.exception for frame in told.stack)


@SERIES
def test_a_lockup_shows_what_the_watchdog_interrupted(vmcores: Vmcores, series: str) -> None:
    told = panic(vmcores, "spinself", series)
    at = next(n for n, frame in enumerate(told.stack) if frame.exception)
    assert told.stack[at].function == "native_queued_spin_lock_slowpath"
    assert told.context is not None
    assert told.context.address is None


@SERIES
def test_a_fault_while_a_module_is_initialised_is_unwound_through_code_freed_later(
    vmcores: Vmcores, series: str
) -> None:
    told = panic(vmcores, "initfault", series)
    expected = vmcores.get("initfault", series).expected
    at = next(n for n, frame in enumerate(told.stack) if frame.exception)
    assert [plain(frame.function) for frame in told.stack[at : at + 4]] == expected["calls"]
    assert told.module == told.stack[at + 1].module == expected["module"]
    assert told.context is not None
    assert told.context.access == "write"


def test_without_symbols_it_is_not_said_that_nothing_happened(vmcores: Vmcores) -> None:
    path = vmcores.get("nullptr").path
    with pytest.raises(LookupError):
        read_panic(Opened(path, "elf", 0, load(path), "x86_64", opened(path).info))
