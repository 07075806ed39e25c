"""Which class of crash a stack shows, without the log: by the functions that noticed it.

The function that was interrupted is asked first (a list or count checker stands there), then, from the innermost frame
outward, who led to the panic. It cannot tell classes that share their path: a checker's report only the log names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from collectors.vmcore.addresses import NEAR_NULL
from wardround.models.vmcore import StackFrame, plain

# Who was interrupted by the trap that reports go through, or stands just behind that.
_SITES: Mapping[str, str] = {
    "list_corruption": r"__list_(?:add|del_entry)_valid(?:_or_report)?|plist_check_\w+",
    "refcount": r"refcount_warn_saturate|refcount_dec_not_one",
    "out_of_bounds": r"usercopy_abort|__?fortify_(?:panic|report)|__ubsan_handle_out_of_bounds|fortify_panic",
    "slab_corruption": r"kfree|kmem_cache_free\w*|__slab_free|___slab_alloc|set_freepointer|free_large_kmalloc|"
    r"cache_from_obj|__check_heap_object|deactivate_slab|do_slab_free|free_to_partial_list",
}
# Who led to the panic, innermost first. The empty class is decided by the faulting address or instruction.
_NOTICED: Mapping[str, str] = {
    "sysrq": r"sysrq_handle_crash|sysrq_crash\w*",
    "oom": r"out_of_memory|check_panic_on_oom|mem_cgroup_out_of_memory|oom_kill_process",
    "soft_lockup": r"watchdog_timer_fn|softlockup_fn",
    "hard_lockup": r"watchdog_overflow_callback|watchdog_hardlockup_\w+|watchdog_buddy_\w+",
    "rcu_stall": r"panic_on_rcu_stall|print_other_cpu_stall|print_cpu_stall|check_cpu_stall|rcu_check_gp_start_stall",
    "hung_task": r"check_hung_uninterruptible_tasks|check_hung_task|hung_task_\w+",
    "stack_protector": r"__stack_chk_fail",
    "stack_overflow": r"handle_stack_overflow|handle_bad_stack|panic_bad_stack",
    "double_fault": r"exc_double_fault|df_debug|double_fault",
    "machine_check": r"mce_panic|do_machine_check|exc_machine_check",
    "use_after_free": r"kasan_report\w*|kfence_report_error|print_report",
    "out_of_bounds": r"__ubsan_\w+|__fortify_\w+|fortify_panic",
    "slab_corruption": r"slab_err|object_err|slab_bug|slab_fix|check_bytes_and_report|slab_pad_check",
    "divide": r"exc_divide_error",
    "general_protection": r"exc_general_protection|exc_stack_segment|do_general_protection",
    "pointer": r"exc_page_fault|page_fault_oops|no_context|do_page_fault|do_mem_abort|do_translation_fault|"
    r"__do_kernel_fault|die_kernel_fault",
    "warning": r"__warn|check_panic_on_warn|warn_slowpath_\w+",
    "invalid": r"exc_invalid_op|do_undefinstr|bug_handler|bug_brk_handler",
}
_SITE = [(kind, re.compile(pattern)) for kind, pattern in _SITES.items()]
_WHO = [(kind, re.compile(pattern)) for kind, pattern in _NOTICED.items()]

# A CPU that pauses for ever in panic() may be caught within a thunk, and its stack then misses the frame of panic().
_THUNKS = ("__x86_indirect_thunk", "__x86_return_thunk")
PAUSING = (*_THUNKS, "delay_", "__delay", "__const_udelay")


def kind_of(
    frames: Sequence[StackFrame], fault: int | None, address: int | None = None, instruction: bytes = b""
) -> tuple[str, int]:
    """Return (class as `Panic.kind` has it, index of the frame that shows it).

    `fault` is the index of the interrupted frame, `address` what could not be accessed, `instruction` the bytes there.
    """
    names = [plain(frame.function) for frame in frames]
    noticed = _noticed(names[: len(names) if fault is None else fault])
    if fault is not None and noticed[0] in ("", "warning", "invalid"):
        for at in range(fault, min(fault + 2, len(names))):
            if site := next((kind for kind, pattern in _SITE if pattern.fullmatch(names[at])), ""):
                return site, at
    kind, at = noticed
    if kind == "pointer":
        return ("null_pointer" if address is not None and address < NEAR_NULL else "bad_pointer"), at
    if kind == "invalid":
        return ("invalid_opcode" if instruction and instruction[:2] != b"\x0f\x0b" else "bug"), at
    if kind:
        return kind, at
    caller = panic_caller(frames)
    return ("requested", caller) if caller is not None else ("unknown", 0)


def _noticed(names: Sequence[str]) -> tuple[str, int]:
    for at, name in enumerate(names):
        if name == "watchdog" and names[at + 1 : at + 2] == ["kthread"]:
            return "hung_task", at  # khungtaskd's thread, into which the check was inlined
        for kind, pattern in _WHO:
            if pattern.fullmatch(name):
                return kind, at
    return "", 0


def panic_caller(frames: Sequence[StackFrame]) -> int | None:
    """Return the index of the frame that called panic(), or None where none did."""
    names = [plain(frame.function) for frame in frames]
    last = max((at for at, name in enumerate(names) if name in ("panic", "vpanic", "nmi_panic")), default=None)
    if last is None and names and names[0].startswith(_THUNKS):
        last = 0
    return last + 1 if last is not None and last + 1 < len(names) else None
