"""Whose doing a stack tells: the first frame that is not the kernel's general machinery.

A fault shows where the machine noticed it. Entry code, the panic path, checkers, lists, locks, allocators and the
scheduler notice what others did, so their frames are passed over; each family below says why. A module that does not
belong to the kernel's own tree is believed before the kernel's own functions on the same stack: it is far less used. It
cannot know who corrupted memory earlier: that is another stack, long gone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from wardround.models.vmcore import ModuleInfo, StackFrame

# Function names (whole, without compiler suffixes) that are never the culprit, by the reason.
_GENERIC: tuple[tuple[str, str], ...] = (
    (
        "the panic path and the printing of reports",
        r"panic|vpanic|nmi_panic|check_panic_on_warn|oops_\w+|die|__die\w*|die_\w+|dump_stack\w*|show_(?:stack|trace|regs)\w*|"
        r"__show_\w+|crash_kexec|__crash_kexec|machine_kexec|crash_setup_regs|make_task_dead|rewind_stack_and_make_dead|"
        r"do_exit|do_group_exit|__warn\w*|warn_slowpath\w*|report_bug|__report_bug|"
        r"bug_handler|handle_bug|is_valid_bugaddr|"
        r"print_report|kasan_\w+|__kasan_\w+|__asan_\w+|check_region_inline|__ubsan_\w+|ubsan_\w+|kfence_\w+|"
        r"console_\w+|vprintk\w*|_?printk|sysrq_handle_\w+|__handle_sysrq|handle_sysrq|write_sysrq_trigger|fortify_panic|"
        r"__fortify_\w+|__stack_chk_fail|abort|arm64_\w+|notify_die|atomic_notifier_call_chain|notifier_call_chain|"
        r"native_machine_\w+|machine_\w+restart|emergency_restart|delay_tsc|__delay|__const_udelay|panic_smp_self_stop",
    ),
    (
        "exception, interrupt and system call entry",
        r"asm_\w+|exc_\w+|sysvec_\w+|__sysvec_\w+|error_entry|error_return|page_fault\w*|do_page_fault|do_user_addr_fault|"
        r"__?do_kernel_fault|do_kern_addr_fault|__bad_area\w*|bad_area\w*|kernelmode_fixup_or_oops|no_context|"
        r"do_error_trap|do_trap\w*|do_invalid_op|do_general_protection|invalid_op|general_protection|fixup_\w+|"
        r"entry_SYSCALL\w*|entry_\w+|do_syscall_\w+|x64_sys_call|__x64_sys_\w+|__ia32_\w+|__se_sys_\w+|__do_sys_\w+|"
        r"__arm64_sys_\w+|invoke_syscall|el0\w+|el1\w+|do_el0\w+|do_mem_abort|do_translation_fault|do_sp_pc_abort|"
        r"ret_from_\w+|syscall_\w+|irqentry_\w+|common_interrupt|do_softirq\w*|__do_softirq|handle_softirqs|irq_exit\w*|"
        r"call_on_\w+|__irq_exit_rcu|ksys_\w+|double_fault|df_debug|handle_stack_overflow|__?do_notify_resume|secondary_startup\w*|"
        r"nmi_\w+|default_do_nmi|end_repeat_nmi|perf_event_nmi_handler|nmi|exc_nmi|first_nmi|do_nmi|bad_mode|brk_handler|"
        r"do_debug_exception|call_break_hook|bug_brk_handler|apic_timer_interrupt|smp_apic_timer_interrupt|__apic_timer\w*|local_apic_timer_interrupt",
    ),
    (
        "timers and watchdogs that noticed it",
        r"watchdog_\w+|__watchdog\w*|softlockup_\w+|is_softlockup|hrtimer_\w+|__hrtimer_\w+|__run_hrtimer|tick_\w+|update_process_times|"
        r"rcu_(?:check|sched_clock|pending|dump|stall|preempt)\w*|print_(?:cpu_stall|other_cpu_stall)\w*|check_cpu_stall|"
        r"check_hung_\w+|hung_task_\w+|watchdog|khungtaskd|lockup_detector\w*|call_timer_fn|run_timer_\w+|__run_timer\w*|expire_timers",
    ),
    (
        "library functions: they are handed what is broken",
        r"__?list_(?:add|del)\w*|__list_\w+|plist_\w+|rb_\w+|__rb_\w+|rbtree_\w+|radix_tree_\w+|xa_\w+|xas_\w+|idr_\w+|ida_\w+|llist_\w+|"
        r"refcount_\w+|kref_\w+|kobject_(?:put|get|release|del)|percpu_ref_\w+|"
        r"__?mem(?:cpy|move|set|cmp|chr|scan)\w*|__?str(?:n?len|n?cpy|n?cmp|chr|rchr|str|lcpy|scpy|ncasecmp|casecmp)\w*|sized_strscpy|"
        r"rep_movs\w*|rep_stos\w*|clear_page\w*|copy_page\w*|copy_user_\w+|"
        r"_?copy_(?:to|from)_\w+|__arch_copy_\w+|__check_object_size|__check_heap_object|usercopy_abort|check_copy_size|"
        r"vsnprintf|snprintf|sprintf|string(?:_nocheck)?|pointer|number|find_(?:next|first|last)_\w*bit|_find_\w+|__x86_indirect_\w+|__x86_return_thunk|"
        r"srso_\w+|__sw_hweight\w+|__bitmap_\w+|bitmap_\w+|csum_\w+|sort|bsearch|debug_\w+_(?:init|free|activate)\w*|debug_print_object|"
        r"__fentry__|ftrace_\w+|trace_\w+|__traceiter_\w+|__bpf_trace\w*|static_call\w*|__rwsem_\w+|__pi_\w+|__lock_text_start",
    ),
    (
        "allocators: they trip over what others wrote",
        r"kfree\w*|kvfree\w*|__kfree\w*|vfree\w*|__vunmap|k[mzc]alloc\w*|__kmalloc\w*|kmem_cache_(?:alloc|free)\w*|__kmem_\w+|slab_\w+|___?slab_\w+|"
        r"__slab_\w+|new_slab|allocate_slab|get_(?:any_)?partial\w*|free_\w*partial\w*|deactivate_slab|unfreeze_partials|put_cpu_partial|"
        r"alloc_debug_\w+|free_debug_\w+|check_(?:object|bytes\w*|slab|pad\w*)|object_err|set_freepointer|do_slab_free|cache_from_obj|"
        r"alloc_pages\w*|__alloc_pages\w*|__alloc_frozen\w*|get_page_from_freelist|free_(?:unref|the|frozen)\w*|__free_\w+|"
        r"rmqueue\w*|alloc_slab_page|folio_alloc\w*|"
        r"vma_alloc_\w+|krealloc\w*|out_of_memory|oom_\w+|dump_header|__vmalloc\w*|vmalloc\w*|qlist_\w+|mempool_\w+|post_alloc_hook|"
        r"prep_new_page|bad_page|__folio_\w+|"
        r"try_charge\w*|mem_cgroup_\w+|try_to_free_\w+|do_try_to_free\w*|shrink_\w+|alloc_(?:frozen_)?pages_mpol",
    ),
    (
        "locks: they wait for, or find wrong, what others hold",
        r"_raw_\w+|__raw_\w+|do_raw_\w+|native_queued_\w+|queued_(?:spin|read|write)_\w+|__?pv_queued_\w+|pv_\w+spin\w*|spin_(?:dump|bug)|"
        r"__?mutex_\w+|mutex_\w+|ww_mutex_\w+|__ww_\w+|rwsem_\w+|down(?:_\w+)?|__down(?:_\w+)?|up(?:_\w+)?|__up(?:_\w+)?|"
        r"rt_mutex_\w+|__rt_mutex_\w+|rt_spin_\w+|rtlock_\w+|osq_\w+|percpu_down_\w+|__percpu_\w+|percpu_rwsem_\w+|lock_acquire|lock_release|__lock_\w+|"
        r"lock_sock_nested|__lock_sock|check_(?:noncircular|prev_add|deadlock)\w*|validate_chain|print_circular_bug\w*|"
        r"print_deadlock_bug|down_(?:read|write)\w*|"
        r"ldsem_\w+|__ldsem_\w+|pvqspinlock\w*|kvm_wait|native_\w*(?:pause|halt|safe_halt)|do_spin_lock\w*|rcu_read_lock\w*|lock_page\w*|__lock_page\w*|folio_lock\w*",
    ),
    (
        "the scheduler and waiting itself",
        r"__schedule\w*|schedule\w*|preempt_schedule\w*|__cond_resched|_cond_resched|io_schedule\w*|__switch_to\w*|context_switch|finish_task_switch\w*|"
        r"wait_for_(?:completion|common)\w*|__wait_for_common|do_wait_for_common|completion\w*|__wait_on_\w+|wait_on_\w+|out_of_line_wait_\w+|bit_wait\w*|"
        r"prepare_to_wait\w*|finish_wait|msleep\w*|usleep_\w+|schedule_timeout\w*|try_to_wake_up|wake_up\w*|__wake_up\w*|autoremove_\w+|default_wake_\w+|"
        r"__rcu_\w+|synchronize_\w+|do_nanosleep|hrtimer_nanosleep|__refrigerator|cpu_startup_entry|do_idle|cpuidle_\w+|"
        r"default_idle\w*|arch_cpu_idle|mwait_\w+|"
        r"intel_idle\w*|acpi_idle\w*|call_cpuidle|smp_call_function\w*|on_each_cpu\w*|flush_\w*work\w*|__flush_\w*work\w*|kthread_stop|wait_woken|"
        r"stop_machine\w*|multi_cpu_stop|cpu_stopper_thread|stop_one_cpu\w*|cpu_stop_\w+|generic_exec_single|csd_lock_wait",
    ),
    (
        "what starts threads, work, modules and system calls",
        r"kthread|kthread_worker_fn|worker_thread|process_(?:one|scheduled)_works?\w*|rescuer_thread|rest_init|start_kernel|x86_64_start_\w+|kernel_init\w*|"
        r"do_one_initcall|do_init_module|load_module|init_module_from_file|__?idempotent_\w+|do_initcalls|"
        r"vfs_(?:write|read|ioctl|open|iter_\w+)|new_sync_\w+|do_iter_\w+|__vfs_\w+|do_sys_\w+|do_writev|do_readv|do_sendfile|"
        r"kernfs_fop_\w+|sysfs_kf_\w+|kobj_attr_\w+|dev_attr_\w+|proc_reg_\w+|pde_\w+|proc_simple_\w+|seq_read\w*|simple_attr_\w+|debugfs_attr_\w+|full_proxy_\w+|"
        r"drv_attr_\w+|proc_sys_\w+|param_attr_\w+|module_attr_\w+|full_proxy_\w+|__fput|____fput|fput\w*|task_work_run|exit_to_\w+|"
        r"misc_open|chrdev_open|do_dentry_open|path_openat|do_filp_open|do_open\w*|task_work_\w+|get_signal|arch_do_signal\w*|smpboot_thread_fn|run_ksoftirqd|"
        r"free_module|rcu_(?:do_batch|core\w*)|__handle_irq\w*|handle_irq\w*|__common_interrupt|handle_edge_irq|generic_handle_\w+",
    ),
)
_PASSED = re.compile("|".join(f"(?:{names})" for _, names in _GENERIC))
_SUFFIX = re.compile(r"(?:\.(?:cold|constprop|isra|part|llvm|lto_priv|localalias|warm)(?:\.\d+)*|\.\d+)+$")
# Taint letters of a module that is not the kernel's own: proprietary, out of tree, forced, unsigned, staging.
_FOREIGN = frozenset("POFEC")


@dataclass(frozen=True, slots=True)
class Suspect:
    """The frame a stack accuses. `passed` are the generic functions above it; `why` in words."""

    frame: StackFrame
    passed: tuple[str, ...]
    why: str


def plain(function: str) -> str:
    """A function's name without what the compiler appended.

    >>> plain("ring_flush.isra.0.cold")
    'ring_flush'
    """
    return _SUFFIX.sub("", function)


def generic(frame: StackFrame) -> bool:
    """Whether a frame is the kernel's general machinery. A foreign module's function never is."""
    return not frame.module and _PASSED.fullmatch(plain(frame.function)) is not None


def foreign(modules: Sequence[ModuleInfo]) -> frozenset[str]:
    """Names of loaded modules that are not of the kernel's own tree."""
    return frozenset(module.name for module in modules if _FOREIGN & set(module.taints))


def from_fault(stack: Sequence[StackFrame]) -> Sequence[StackFrame]:
    """The stack from the fault on: what is above the exception is how it was handled."""
    at = next((n for n, frame in enumerate(stack) if frame.exception), 0)
    return stack[at:]


def telling(stack: Sequence[StackFrame], unsure: bool = False) -> Iterator[StackFrame]:
    """The frames that are not generic, innermost first; `unsure` lets in those the unwinder only found."""
    return (frame for frame in from_fault(stack) if not generic(frame) and (frame.sure or unsure))


def suspect(
    stack: Sequence[StackFrame], foreign_modules: Collection[str] = (), unsure: bool = False
) -> Suspect | None:
    """Choose the frame that a stack accuses, or None where all of it is generic.

    `unsure` also believes frames with a question mark: after a call through a bad pointer the true caller is one.
    """
    frames = list(telling(stack, unsure))
    if not frames:
        return None
    first = frames[0]
    outside = next((frame for frame in frames if frame.module in foreign_modules), None)
    chosen, why = first, "the first function of the stack that is not general machinery"
    if outside is not None and not first.module:
        chosen, why = outside, "the first function of the stack that is of a module from outside the kernel's tree"
    passed = tuple(frame.function for frame in from_fault(stack)[: list(from_fault(stack)).index(chosen)] if frame.sure)
    return Suspect(chosen, passed[:12], why)
