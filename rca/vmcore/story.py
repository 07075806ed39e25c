"""Whose doing a stack tells: the first frame that is not the kernel's general machinery.

A fault shows where the machine noticed it. Entry code, the panic path, checkers, lists, locks, allocators and the
scheduler notice what others did, so their frames are passed over; each family below says why. A module that does not
belong to the kernel's own tree is believed before the kernel's own functions on the same stack: it is far less used. It
cannot know who corrupted memory earlier: that is another stack, long gone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from wardround.models.vmcore import ModuleInfo, StackFrame, plain

# Names of functions (without compiler suffixes; * for any ending) that are never the culprit, by the reason.
_GENERIC: Mapping[str, str] = {
    "the panic path and the printing of reports": """
        __asan_* __const_udelay __crash_kexec __delay __die* __fortify_* __handle_sysrq __kasan_* __report_bug
        __show_* __stack_chk_fail __ubsan_* __warn* _printk abort arm64_force_sig_fault arm64_notify_die
        arm64_serror_panic atomic_notifier_call_chain bug_handler check_panic_on_warn check_region_inline
        console_* crash_kexec crash_setup_regs delay_tsc die die_* do_exit do_group_exit dump_stack*
        emergency_restart fortify_panic handle_bug handle_sysrq is_valid_bugaddr kasan_* kfence_*
        machine_*restart machine_kexec make_task_dead native_machine_* nmi_panic notifier_call_chain notify_die
        oops_* panic panic_smp_self_stop print_report printk report_bug rewind_stack_and_make_dead show_regs*
        show_stack* show_trace* sysrq_handle_* ubsan_* vpanic vprintk* warn_slowpath* write_sysrq_trigger
    """,
    "exception, interrupt and system call entry": """
        __apic_timer* __arm64_sys_* __bad_area* __do_kernel_fault __do_notify_resume __do_softirq __do_sys_*
        __ia32_* __irq_exit_rcu __se_sys_* __sysvec_* __x64_sys_* apic_timer_interrupt asm_* bad_area* bad_mode
        brk_handler bug_brk_handler call_break_hook call_on_* common_interrupt default_do_nmi df_debug
        do_debug_exception do_el0* do_error_trap do_general_protection do_invalid_op do_kern_addr_fault
        do_mem_abort do_nmi do_page_fault do_softirq* do_sp_pc_abort do_syscall_* do_translation_fault do_trap*
        do_user_addr_fault double_fault el0* el1* end_repeat_nmi entry_* error_entry error_return exc_*
        first_nmi fixup_* general_protection handle_softirqs handle_stack_overflow invalid_op invoke_syscall
        irq_exit* irqentry_* kernelmode_fixup_or_oops ksys_* local_apic_timer_interrupt nmi nmi_* no_context
        page_fault* perf_event_nmi_handler ret_from_* secondary_startup* smp_apic_timer_interrupt syscall_*
        sysvec_* x64_sys_call
    """,
    "timers and watchdogs that noticed it": """
        __hrtimer_* __run_hrtimer __run_timer* __watchdog* call_timer_fn check_cpu_stall check_hung_*
        expire_timers getnstimeofday* hrtimer_* hung_task_* is_softlockup khungtaskd ktime_* lockup_detector*
        print_cpu_stall* print_other_cpu_stall* rcu_check* rcu_dump* rcu_pending* rcu_preempt* rcu_sched_clock*
        panic_on_* rcu_stall* run_timer_* softlockup_* tick_* update_process_times watchdog watchdog_*
    """,
    "library functions: they are handed what is broken": """
        __arch_copy_* __bitmap_* __bpf_trace* __check_heap_object __check_object_size __fentry__ __list_*
        __lock_text_start __memchr* __memcmp* __memcpy* __memmove* __memscan* __memset* __pi_* __rb_* __rwsem_*
        __strchr* __strcmp* __strcpy* __strlen* __strncasecmp* __strncmp* __strncpy* __strnlen* __strrchr*
        __strscpy* __strstr* __sw_hweight* __traceiter_* __x86_indirect_* __x86_return_thunk _copy_from_*
        _copy_to_* _find_* bitmap_* bsearch check_copy_size clear_page* copy_from_* copy_page* copy_to_*
        copy_user_* csum_* debug_*_activate* debug_*_free* debug_*_init* debug_print_object find_first_*bit
        find_last_*bit find_next_*bit format_decode ftrace_* ida_* idr_* kasprintf kobject_del kobject_get
        kobject_put kobject_release kref_* kstrto* kvasprintf llist_* memchr* memcmp* memcpy* memmove* memscan*
        memset* number percpu_ref_* plist_* pointer radix_tree_* rb_* rbtree_* refcount_* rep_movs* rep_stos*
        scnprintf sized_strscpy snprintf sort sprintf srso_* sscanf static_call* str*cpy* strcasecmp* strchr*
        strcmp* string string_nocheck strlen* strncasecmp* strncmp* strnlen* strrchr* strstr* trace_*
        usercopy_abort vscnprintf vsnprintf vsscanf xa_* xas_*
    """,
    "allocators: they trip over what others wrote": """
        ___slab_* __alloc_frozen* __alloc_pages* __folio_* __free_* __kfree* __kmalloc* __kmem_* __slab_*
        __vmalloc* __vunmap alloc_debug_* alloc_frozen_pages_mpol alloc_pages* alloc_slab_page allocate_slab
        bad_page cache_from_obj check_bytes* check_object check_pad* check_slab deactivate_slab do_slab_free
        do_try_to_free* dump_header folio_alloc* free_*partial* free_debug_* free_frozen* free_the* free_unref*
        get_any_partial* get_page_from_freelist get_partial* kcalloc* kfree* kmalloc* kmem_cache_alloc*
        kmem_cache_free* krealloc* kvfree* kvmalloc* kzalloc* mem_cgroup_* mempool_* new_slab object_err oom_*
        out_of_memory post_alloc_hook prep_new_page put_cpu_partial qlist_* rmqueue* set_freepointer shrink_*
        slab_* try_charge* try_to_free_* unfreeze_partials vfree* vma_alloc_* vmalloc*
    """,
    "locks: they wait for, or find wrong, what others hold": """
        __down __down_* __ldsem_* __lock_* __mutex_* __percpu_* __pv_queued_* __raw_* __rt_mutex_* __up __up_*
        __ww_* _raw_* check_deadlock* check_noncircular* check_prev_add* do_raw_* do_spin_lock* down down_*
        folio_lock* kvm_wait ldsem_* lock_acquire lock_page* lock_release lock_sock_nested mutex_* native_*halt
        native_*pause native_queued_* osq_* percpu_down_* percpu_rwsem_* print_circular_bug* print_deadlock_bug
        pv_*spin* pvqspinlock* queued_read_* queued_spin_* queued_write_* rcu_read_lock* rt_mutex_* rt_spin_*
        rtlock_* rwsem_* spin_bug spin_dump up up_* validate_chain ww_mutex_*
    """,
    "the scheduler and waiting itself": """
        __cond_resched amd_e400_idle arch_call_rest_init common_startup_64 pv_native_safe_halt start_secondary
        xen_safe_halt __flush_*work* __rcu_* __refrigerator __schedule* __switch_to* __wait_for_common
        __wait_on_* __wake_up* _cond_resched acpi_idle* arch_cpu_idle autoremove_* bit_wait* call_cpuidle
        completion* context_switch cpu_startup_entry cpu_stop_* cpu_stopper_thread cpuidle_* csd_lock_wait
        default_idle* default_wake_* do_idle do_nanosleep do_wait_for_common finish_task_switch* finish_wait
        flush_*work* generic_exec_single hrtimer_nanosleep intel_idle* io_schedule* kthread_stop msleep*
        multi_cpu_stop mwait_* on_each_cpu* out_of_line_wait_* preempt_schedule* prepare_to_wait* schedule*
        smp_call_function* stop_machine* stop_one_cpu* synchronize_* try_to_wake_up usleep_* wait_for_common*
        wait_for_completion* wait_on_* wait_woken wake_up*
    """,
    "the page cache: it waits for what a file system or a disk owes": """
        __filemap_* do_fsync file_write_and_wait* filemap_* folio_wait_* vfs_fsync*
    """,
    "what starts threads, work, modules and system calls": """
        ____fput __common_interrupt __fput __handle_irq* __idempotent_* __vfs_* arch_do_signal* chrdev_open
        debugfs_attr_* dev_attr_* do_dentry_open do_filp_open do_init_module do_initcalls do_iter_*
        do_one_initcall do_open* do_readv do_sendfile do_sys_* do_writev drv_attr_* exit_to_* fput* free_module
        full_proxy_* generic_handle_* get_signal handle_edge_irq handle_irq* init_module_from_file kernel_init*
        kernfs_fop_* kobj_attr_* kthread kthread_*exit kthread_worker_fn load_module misc_open module_attr_* new_sync_*
        param_attr_* path_openat pde_* proc_reg_* proc_simple_* proc_sys_* process_one_work*
        process_scheduled_work* rcu_core* rcu_do_batch rescuer_thread rest_init run_ksoftirqd seq_read*
        simple_attr_* smpboot_thread_fn start_kernel sysfs_kf_* task_work_* vfs_ioctl vfs_iter_* vfs_open
        vfs_read vfs_write worker_thread x86_64_start_*
    """,
}
_PASSED = re.compile(
    "|".join(re.escape(n).replace(r"\*", r"\w*") for names in _GENERIC.values() for n in names.split())
)


@dataclass(frozen=True, slots=True)
class Suspect:
    """The frame a stack accuses. `passed` are the generic functions above it; `why` in words."""

    frame: StackFrame
    passed: tuple[str, ...]
    why: str


def generic(frame: StackFrame) -> bool:
    """Whether a frame is the kernel's general machinery. A foreign module's function never is."""
    return not frame.module and _PASSED.fullmatch(plain(frame.function)) is not None


def foreign(modules: Sequence[ModuleInfo]) -> frozenset[str]:
    """Names of loaded modules that are not of the kernel's own tree."""
    return frozenset(module.name for module in modules if module.foreign)


def from_fault(stack: Sequence[StackFrame]) -> Sequence[StackFrame]:
    """The stack from the fault on: what is above the exception is how it was handled."""
    at = next((n for n, frame in enumerate(stack) if frame.exception), 0)
    return stack[at:]


def telling(stack: Sequence[StackFrame], unsure: bool = False) -> Iterator[StackFrame]:
    """The frames that are not generic, innermost first; `unsure` lets in those the unwinder only found."""
    return (frame for frame in from_fault(stack) if not generic(frame) and (frame.sure or unsure))


def blame(stack: Sequence[StackFrame], foreign_modules: Collection[str] = ()) -> Suspect | None:
    """The accused frame of a stack; frames with a question mark count only where there is no sure one."""
    return suspect(stack, foreign_modules) or suspect(stack, foreign_modules, unsure=True)


def suspect(stack: Sequence[StackFrame], foreign_modules: Collection[str] = (), unsure: bool = False) -> Suspect | None:
    """Choose the frame that a stack accuses, or None where all of it is generic.

    `unsure` also believes frames with a question mark: after a call through a bad pointer the true caller is one.
    """
    frames = list(telling(stack, unsure))
    if unsure and not any(frame.sure for frame in frames):
        frames = [frame for frame in frames if frame.module] or frames  # what was left on the stack is most often old
    if not frames:
        return None
    first = frames[0]
    outside = next((frame for frame in frames if frame.module in foreign_modules), None)
    chosen, why = first, "the first function of the stack that is not general machinery"
    if outside is not None and not first.module:
        chosen, why = outside, "the first function of the stack that is of a module from outside the kernel's tree"
    passed = tuple(frame.function for frame in from_fault(stack)[: list(from_fault(stack)).index(chosen)] if frame.sure)
    return Suspect(chosen, passed[:12], why)
