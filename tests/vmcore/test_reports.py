"""Crash reports: where they begin and end, what kind they are, what they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from collectors.vmcore.addresses import classify, meaning
from collectors.vmcore.fromlog import completed, first_cause, from_log, read_log
from collectors.vmcore.oomlog import memory
from collectors.vmcore.reports import reports
from wardround.models.vmcore import LogLine, Report

LOGS = Path(__file__).parent / "logs"


def told(text: str) -> tuple[Report, ...]:
    return reports([LogLine(0.0, line.strip()) for line in text.strip().splitlines()])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "null_pointer"),
        ("BUG: unable to handle kernel NULL pointer dereference at 0000000000000010", "null_pointer"),
        ("Unable to handle kernel NULL pointer dereference at virtual address 0000000000000018", "null_pointer"),
        ("BUG: unable to handle page fault for address: ffffa1b2c3d4e5f0", "bad_pointer"),
        ("BUG: unable to handle page fault for address: 0000000000000fe0", "null_pointer"),
        ("BUG: unable to handle kernel paging request at ffffeb0400000000", "bad_pointer"),
        ("Unable to handle kernel paging request at virtual address ffff800011223344", "bad_pointer"),
        (
            "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
            "general_protection",
        ),
        (
            "Oops: general protection fault, probably for non-canonical address 0x6b6b: 0000 [#1] SMP",
            "general_protection",
        ),
        ("KASAN: null-ptr-deref in range [0x0000000000000008-0x000000000000000f]", "null_pointer"),
        ("BUG: KASAN: slab-out-of-bounds in frob_copy+0x12/0x90 [frob]", "out_of_bounds"),
        ("BUG: KASAN: double-free in frob_free+0x12/0x90 [frob]", "use_after_free"),
        ("BUG: KFENCE: use-after-free read in frob_read+0x12/0x90 [frob]", "use_after_free"),
        ("UBSAN: array-index-out-of-bounds in drivers/frob/core.c:77:12", "out_of_bounds"),
        (
            "usercopy: Kernel memory exposure attempt detected from SLUB object 'frob' (offset 0, size 99)!",
            "out_of_bounds",
        ),
        (
            "list_add corruption. prev->next should be next (ffff), but was dead000000000100. (prev=ffff).",
            "list_corruption",
        ),
        ("list_del corruption. next->prev should be ffff, but was ffff", "list_corruption"),
        ("kernel BUG at lib/list_debug.c:59!", "list_corruption"),
        ("refcount_t: saturated; leaking memory.", "refcount"),
        ("WARNING: CPU: 1 PID: 57 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110", "refcount"),
        ("BUG kmalloc-64 (Not tainted): Redzone overwritten", "slab_corruption"),
        ("kernel BUG at mm/slub.c:435!", "slab_corruption"),
        ("BUG: Bad page state in process sshd  pfn:10a2b3", "slab_corruption"),
        ("INFO: task kworker/u8:3:211 blocked for more than 120 seconds.", "hung_task"),
        ("INFO: task dd:9 blocked in I/O wait for more than 122 seconds.", "hung_task"),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [stress:881]", "soft_lockup"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 5", "hard_lockup"),
        ("watchdog: CPU5: Watchdog detected hard LOCKUP on cpu 5", "hard_lockup"),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", "rcu_stall"),
        ("BUG: spinlock lockup suspected on CPU#0, frobd/44", "soft_lockup"),
        ("frobd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", "oom"),
        ("traps: PANIC: double fault, error_code: 0x0", "double_fault"),
        ("BUG: TASK stack guard page was hit at 0000000012345678 (stack is 00000000a..00000000b)", "stack_overflow"),
        ("Kernel panic - not syncing: corrupted stack end detected inside scheduler", "stack_overflow"),
        ("Insufficient stack space to handle exception!", "stack_overflow"),
        (
            "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: frob+0x82/0x90",
            "stack_protector",
        ),
        ("divide error: 0000 [#1] PREEMPT SMP", "divide"),
        ("invalid opcode: 0000 [#1] PREEMPT SMP", "invalid_opcode"),
        ("kernel BUG at fs/ext4/inode.c:2743!", "bug"),
        ("Internal error: Oops - BUG: 00000000f2000800 [#1] SMP", "bug"),
        ("sysrq: Trigger a crash", "sysrq"),
        ("SysRq : Trigger a crash", "sysrq"),
        ("WARNING: possible circular locking dependency detected", "lock_order"),
        (
            "WARNING: CPU: 3 PID: 411 at drivers/gpu/drm/i915/intel_dp.c:2203 intel_dp_read+0x1a2/0x1c0 [i915]",
            "warning",
        ),
        ("WARNING: kernel/irq/chip.c:242 at irq_startup+0xf5/0x100, CPU#0: systemd/1", "warning"),
        ("Uhhuh. NMI received for unknown reason 20 on CPU 0.", "requested"),
        ("Kernel panic - not syncing: Fatal machine check", "machine_check"),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "unknown"),
    ],
)
def test_each_kind_by_the_line_the_kernel_prints(line: str, kind: str) -> None:
    assert [report.kind for report in told(line)] == [kind]


@pytest.mark.parametrize(
    "line",
    ["systemd[1]: Starting debug kernel panic collector", "usb 1-1: DEBUG: ok", "audit: info", "EXT4-fs: mounted", ""],
)
def test_other_lines_open_no_report(line: str) -> None:
    assert told(line) == ()


def test_a_specific_line_gives_the_report_its_kind_and_title() -> None:
    (report,) = told(
        "list_del corruption. prev->next should be ffff88, but was dead000000000122. (prev=ffff99)\n"
        "------------[ cut here ]------------\nkernel BUG at lib/list_debug.c:53!\ninvalid opcode: 0000 [#1] SMP\n"
        "RIP: 0010:__list_del_entry_valid.cold+0x34/0x4c\nCall Trace:\n <TASK>\n frob_drop+0x10/0x30 [frob]\n"
    )
    assert report.kind == "list_corruption"
    assert report.title.startswith("list_del corruption")
    assert [frame.name for frame in report.stack] == ["__list_del_entry_valid.cold", "frob_drop [frob]"]


def test_a_warning_a_day_before_is_not_the_cause() -> None:
    vmcore = read_log(LOGS / "null_write_6.12.log")
    assert [report.kind for report in vmcore.reports] == ["warning", "null_pointer"]
    assert first_cause(vmcore.reports) == vmcore.reports[1]
    assert vmcore.reports[1].fatal


def test_a_refcount_report_just_before_the_oops_of_the_same_module_is_the_cause() -> None:
    log = (
        "[   10.000001] refcount_t: underflow; use-after-free.\n"
        "[   10.000002] WARNING: CPU: 1 PID: 57 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110\n"
        "[   10.000003] Call Trace:\n[   10.000004]  frob_put+0x10/0x20 [frob]\n[   10.000005] ---[ end trace 0 ]---\n"
        "[   21.000001] BUG: unable to handle page fault for address: ffffa1b2c3d4e5f0\n"
        "[   21.000002] CPU: 0 PID: 99 Comm: frobd Not tainted 6.1.0 #1\n"
        "[   21.000003] RIP: 0010:frob_get+0x1/0x20 [frob]\n[   21.000004] RAX: 0000000000000000 RBX: 1\n"
        "[   21.000005] Kernel panic - not syncing: Fatal exception\n"
    )
    panic = from_log(log.encode()).panic
    assert panic is not None
    assert (panic.kind, panic.message) == ("refcount", "Fatal exception")


def test_what_the_panic_itself_prints_is_not_the_story() -> None:
    panic = read_log(LOGS / "mutex_owners_6.18.log").panic
    assert panic is not None
    assert panic.kind == "hung_task"
    assert "watchdog.cold" not in [frame.function for frame in panic.stack]


def test_a_panic_that_no_report_led_to_was_called_for() -> None:
    panic = read_log(LOGS / "driver_panics_6.1.log").panic
    assert panic is not None
    assert (panic.kind, panic.message) == ("requested", "fencer: peer lost, fencing this node")


def test_registers_address_and_access() -> None:
    panic = read_log(LOGS / "null_write_6.12.log").panic
    assert panic is not None
    assert panic.context is not None
    assert (panic.cpu, panic.task, panic.tainted) == (5, 20412, "GWOE")
    assert (panic.context.address, panic.context.access, panic.context.meaning) == (
        0x38,
        "write",
        "a null pointer plus 0x38",
    )
    assert panic.context.registers["RBX"] == 0xFFFF8F1A0B2C6C00
    assert panic.context.registers["CR2"] == 0x38
    assert "RIP" not in panic.context.registers


def test_a_build_id_beside_the_module_and_unsure_frames_are_read() -> None:
    panic = read_log(LOGS / "null_write_6.12.log").panic
    assert panic is not None
    names = [(frame.name, frame.sure) for frame in panic.stack]
    assert ("zram2_submit_bio [zram2]", True) in names
    assert ("exc_page_fault", False) in names
    assert panic.stack[0].exception


def test_arm64_registers_and_stack() -> None:
    panic = read_log(LOGS / "list_poison_arm64.log").panic
    assert panic is not None
    assert panic.context is not None
    assert panic.context.access == "write"
    assert panic.context.registers["x1"] == 0xDEAD000000000100
    assert [frame.function for frame in panic.stack[:2]] == ["mbxring_unlink_slot", "mbxring_reap"]
    assert read_log(LOGS / "list_poison_arm64.log").header.architecture == "aarch64"


@pytest.mark.parametrize(
    "lines",
    [
        """RIP: 0010:[<ffffffffa01c16a1>]  [<ffffffffa01c16a1>] dbuf_find+0x81/0x100 [zfs]
           Call Trace:
            [<ffffffffa01c2b3c>] dbuf_hold+0x1c/0x30 [zfs]""",
        """epc : dbuf_find+0x81/0x100 [zfs]
            ra : dbuf_hold+0x1c/0x30 [zfs]
           Call Trace:
           [<ffffffff01c2b3c0>] dbuf_hold+0x1c/0x30 [zfs]""",
        """NIP [c008000001a2b3c4] dbuf_find+0x81/0x100 [zfs]
           LR [c008000001a2b3d8] dbuf_hold+0x1c/0x30 [zfs]
           Call Trace:
           [c000000012a7b9c0] [c008000001a2b3d8] dbuf_hold+0x1c/0x30 [zfs]""",
        """RIP: 0010:dbuf_find (module/zfs/dbuf.c:411) zfs
           Call Trace:
            <TASK>
           dbuf_hold (module/zfs/dbuf.c:3411) zfs""",
    ],
    ids=["older x86", "riscv", "powerpc", "decoded by script"],
)
def test_other_shapes_of_stacks(lines: str) -> None:
    (report,) = told("BUG: unable to handle kernel paging request at ffffeb0400000000\n" + lines.strip())
    assert [frame.name for frame in report.stack] == ["dbuf_find [zfs]", "dbuf_hold [zfs]"]


def test_two_cpus_that_report_at_once_without_caller_ids() -> None:
    text = (
        "watchdog: BUG: soft lockup - CPU#1 stuck for 11s! [a/1:94]\n"
        "watchdog: BUG: soft lockup - CPU#0 stuck for 11s! [a/0:93]\n"
        "RIP: 0010:native_queued_spin_lock_slowpath+0x30/0x2a0\nRIP: 0010:native_queued_spin_lock_slowpath+0x30/0x2a0\n"
        "Call Trace:\nCall Trace:\n <TASK>\n _raw_spin_lock+0x25/0x30\n <TASK>\n _raw_spin_lock+0x25/0x30\n"
        " shaper+0x14/0x40 [qos]\n shaper+0x14/0x40 [qos]\n </TASK>\n </TASK>\n"
    )
    (report,) = told(text)
    assert [frame.function for frame in report.stack] == [
        "native_queued_spin_lock_slowpath",
        "_raw_spin_lock",
        "shaper",
    ]
    assert report.detail("also") == "a/0 (pid 93)"


def test_caller_ids_keep_writers_apart() -> None:
    (report,) = read_log(LOGS / "kasan_interleaved_6.6.log").reports
    assert report.function == "lease_expire"
    assert report.detail("freed_in").startswith("lease_release [leasedb]")
    assert report.fatal


def test_owners_and_their_cycle_are_taken_from_the_log() -> None:
    vmcore = read_log(LOGS / "mutex_owners_6.18.log")
    assert [(lock.owner, lock.waiters) for lock in vmcore.locks] == [(2202, (2201,)), (2201, (2202,)), (2201, (2203,))]
    (cycle,) = vmcore.cycles
    assert (set(cycle.tasks), cycle.bystanders, cycle.certainty) == ({2201, 2202}, (2203,), "hint")
    assert {(task.comm, task.waiting) for task in vmcore.tasks} == {
        ("tape_load", 120.0),
        ("tape_eject", 120.0),
        ("tape_status", 120.0),
    }


def test_memory_of_an_oom_report() -> None:
    memory = read_log(LOGS / "oom_tasks_6.1.log").memory
    assert memory is not None
    assert memory.total == 2096984 * 4096
    assert dict(memory.parts)["anonymous"] == (412 + 1931022) * 4096
    assert memory.largest_tasks[0] == (7310, 1902344 * 4096)


@pytest.mark.parametrize("log", ["oom_tasks_6.1.log", "io_hang_behind_lock_6.1.log"])
def test_a_dump_whose_structures_cannot_be_read_is_completed_from_its_log(log: str) -> None:
    whole = read_log(LOGS / log)
    bare = replace(whole, tasks=(), locks=(), cycles=(), memory=None, modules=())
    assert bare != whole
    assert completed(bare) == whole


def test_stacks_of_all_nodes_are_a_part_of_memory() -> None:
    node = "Node {} active_anon:8kB inactive_anon:0kB unevictable:0kB kernel_stack:{}kB pagetables:104kB"
    told = ("x invoked oom-killer: gfp_mask=0xcc0", "active_anon:2 free:9", node.format(0, 300), node.format(1, 700))
    found = memory([LogLine(0.0, text) for text in told])
    assert found is not None
    assert dict(found.parts)["kernel_stacks"] == 1000 * 1024


def test_addresses_are_explained() -> None:
    assert classify(0xFFFF8F1A0B2C6C00) == "kernel"
    assert meaning(0xFFFF8F1A0B2C6C00) == ""
    assert classify(0x6B6B6B6B6B6B6BA3) == "freed"
    assert "freed slab memory" in meaning(0x6B6B6B6B6B6B6BA3)
    assert "already deleted, plus 0x8" in meaning(0xDEAD000000000108)
    assert "-ENOENT" in meaning(0xFFFFFFFFFFFFFFFE)
    assert meaning(0x1234567812345678) == "no valid address at all"
