"""The class of a crash by its stack alone."""

from __future__ import annotations

import pytest

from collectors.vmcore.crashkind import kind_of, panic_caller
from wardround.models.vmcore import StackFrame


def stack(text: str) -> tuple[tuple[StackFrame, ...], int | None]:
    """Frames of names, innermost first; the one with an exclamation mark was interrupted."""
    names = text.split()
    frames = tuple(StackFrame(name.rstrip("!"), exception=name.endswith("!")) for name in names)
    return frames, next((at for at, frame in enumerate(frames) if frame.exception), None)


TRAP = "delay_tsc panic oops_end do_trap exc_invalid_op asm_exc_invalid_op"
WARN = "delay_tsc panic check_panic_on_warn __warn report_bug handle_bug exc_invalid_op asm_exc_invalid_op"
FAULT = "delay_tsc panic oops_end page_fault_oops exc_page_fault asm_exc_page_fault"
TICK = "delay_tsc panic {} __hrtimer_run_queues hrtimer_interrupt asm_sysvec_apic_timer_interrupt spin! thread"


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (f"{TRAP} __list_add_valid_or_report! insert", "list_corruption"),
        (f"{TRAP} __list_del_entry_valid.cold! insert", "list_corruption"),
        (f"{WARN} refcount_warn_saturate! put", "refcount"),
        (f"{WARN} device_method!", "warning"),
        (f"{TRAP} device_method!", "bug"),
        (f"{TRAP} kfree! device_free", "slab_corruption"),
        (f"{TRAP} usercopy_abort! device_write", "out_of_bounds"),
        (TICK.format("watchdog_timer_fn.cold"), "soft_lockup"),
        ("delay_tsc panic nmi_panic watchdog_overflow_callback asm_exc_nmi spin! thread", "hard_lockup"),
        ("delay_tsc panic watchdog kthread ret_from_fork", "hung_task"),
        ("delay_tsc panic check_hung_uninterruptible_tasks watchdog kthread", "hung_task"),
        ("delay_tsc panic out_of_memory __alloc_pages_slowpath kmem_cache_alloc open", "oom"),
        ("delay_tsc panic sysrq_handle_crash __handle_sysrq write_sysrq_trigger", "sysrq"),
        ("delay_tsc panic __stack_chk_fail decode", "stack_protector"),
        ("panic oops_end handle_stack_overflow exc_double_fault asm_exc_double_fault walk! walk", "stack_overflow"),
        ("panic oops_end exc_double_fault asm_exc_double_fault walk!", "double_fault"),
        ("panic oops_end exc_general_protection asm_exc_general_protection walk!", "general_protection"),
        ("panic oops_end exc_divide_error asm_exc_divide_error share!", "divide"),
        ("panic mce_panic do_machine_check exc_machine_check asm_exc_machine_check idle!", "machine_check"),
        ("delay_tsc panic driver_fatal_error driver_work process_one_work", "requested"),
        ("stop_this_cpu sysvec_reboot", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_functions_that_noticed_it_tell_the_class(frames: str, kind: str) -> None:
    assert kind_of(*stack(frames))[0] == kind


def test_a_page_fault_is_told_by_its_address() -> None:
    found = stack(f"{FAULT} reader! caller")
    assert kind_of(*found, address=0x18)[0] == "null_pointer"
    assert kind_of(*found, address=0xDEAD000000000108)[0] == "bad_pointer"
    assert kind_of(*found)[0] == "bad_pointer"


def test_an_instruction_that_is_no_ud2_is_an_invalid_one() -> None:
    found = stack(f"{TRAP} device_method!")
    assert kind_of(*found, instruction=b"\x0f\x0b\x90")[0] == "bug"
    assert kind_of(*found, instruction=b"\xff\xff\x90")[0] == "invalid_opcode"


def test_the_caller_of_panic_is_found_through_its_wrappers() -> None:
    frames, _ = stack("delay_tsc vpanic panic driver_fatal_error driver_work")
    assert panic_caller(frames) == 3
    assert panic_caller(stack("schedule")[0]) is None


def test_a_watchdog_of_somebody_else_is_no_hung_task() -> None:
    assert kind_of(*stack("delay_tsc panic watchdog driver_timer call_timer_fn"))[0] == "requested"


def test_a_cpu_caught_in_a_thunk_of_panics_pause_is_told_by_who_called_panic() -> None:
    names = ("__x86_indirect_thunk_array", "watchdog_timer_fn", "__hrtimer_run_queues")
    stack = [StackFrame(name) for name in names]
    assert panic_caller(stack) == 1
    assert kind_of(stack, None, None, b"") == ("soft_lockup", 1)
    assert panic_caller(stack[1:]) is None
