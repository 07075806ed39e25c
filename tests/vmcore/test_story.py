"""Whom a stack accuses."""

from __future__ import annotations

import pytest

from rca.vmcore.facts import waits
from rca.vmcore.story import blame, foreign, generic, suspect
from wardround.models.vmcore import ModuleInfo, StackFrame, plain


def stack(*names: str) -> tuple[StackFrame, ...]:
    """Frames from ``name``, ``name@module``, ``?name`` (not sure) and ``!name`` (the exception's)."""
    out = []
    for name in names:
        function, _, module = name.lstrip("?!").partition("@")
        out.append(StackFrame(function, module=module, sure=not name.startswith("?"), exception=name.startswith("!")))
    return tuple(out)


@pytest.mark.parametrize(
    ("frames", "accused"),
    [
        (stack("panic", "oops_end", "asm_exc_page_fault", "!ring_get@ring", "ring_read@ring", "vfs_read"), "ring_get"),
        (stack("!__list_del_entry_valid.cold", "ring_drop@ring", "process_one_work", "kthread"), "ring_drop"),
        (stack("!refcount_warn_saturate", "ring_put.isra.0@ring", "worker_thread"), "ring_put"),
        (stack("!native_queued_spin_lock_slowpath", "_raw_spin_lock_irqsave", "ring_lock@ring"), "ring_lock"),
        (stack("!memcpy_orig", "?exc_page_fault", "tcp_sendmsg", "sock_write_iter"), "tcp_sendmsg"),
        (stack("!kfree", "skb_release_data", "ring_free@ring"), "ring_free"),
        (stack("!ext4_writepages@ext4", "do_writepages", "ring_flush@ring"), "ext4_writepages"),
    ],
)
def test_the_first_function_with_a_story(frames: tuple[StackFrame, ...], accused: str) -> None:
    found = suspect(frames, {"ring"})
    assert found is not None
    assert plain(found.frame.function) == accused


def test_only_machinery_accuses_nobody() -> None:
    assert blame(stack("panic", "sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger", "vfs_write")) is None


def test_unsure_frames_count_where_there_are_no_others() -> None:
    found = blame(stack("?schedule", "?jbd2_journal_commit_transaction@jbd2", "?kthread"))
    assert found is not None
    assert found.frame.module == "jbd2"


def test_a_modules_function_is_never_machinery() -> None:
    assert generic(StackFrame("list_add_tail")) is False or generic(StackFrame("__list_add_valid"))
    assert not generic(StackFrame("schedule_work_now", module="ring"))


def test_foreign_modules_are_told_by_their_taints() -> None:
    modules = (ModuleInfo("ring", 0, 0, "OE"), ModuleInfo("ext4", 0, 0), ModuleInfo("nvidia", 0, 0, "PO"))
    assert foreign(modules) == {"ring", "nvidia"}


@pytest.mark.parametrize(
    ("frames", "kind", "caller"),
    [
        (stack("__schedule", "schedule", "schedule_preempt_disabled", "__mutex_lock.constprop.0", "f@m"), "mutex", "f"),
        (stack("__schedule", "schedule", "rwsem_down_write_slowpath", "down_write", "f@m"), "rwsem", "f"),
        (stack("__schedule", "schedule", "schedule_timeout", "__down_common", "down", "f@m"), "semaphore", "f"),
        (stack("__schedule", "schedule", "schedule_timeout", "__wait_for_common", "f@m"), "completion", "f"),
        (stack("__schedule", "schedule", "io_schedule", "folio_wait_bit_common", "f@m"), "io", "f"),
        (stack("__schedule", "schedule", "f@m"), "event", "f"),
        (stack("f@m", "g@m"), "running", "f"),
        ((), "running", None),
    ],
)
def test_what_a_task_waits_for(frames: tuple[StackFrame, ...], kind: str, caller: str | None) -> None:
    wait = waits(frames)
    assert (wait.kind, wait.caller.function if wait.caller else None) == (kind, caller)
