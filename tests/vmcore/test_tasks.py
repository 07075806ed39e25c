"""All tasks of real dumps: states, CPUs, waits, stacks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from drgn import FaultError

from collectors.vmcore.tasks import cpus, read_tasks, state_letter
from tests.vmcore.conftest import Dump, Vmcores
from tests.vmcore.opened import opened
from wardround.models.vmcore import Task, plain

BLOCKED = ("abba", "rwsem", "semaphore", "hung")


def by_name(tasks: tuple[Task, ...], name: str) -> Task:
    return next(task for task in tasks if task.comm == name)


def in_order(calls: list[str], task: Task) -> bool:
    """Whether functions stand in a stack, innermost first, others between them or not."""
    names = iter(plain(frame.function) for frame in task.stack)
    return all(call in names for call in calls)


def test_tasks_of_every_dump_have_states_cpus_and_stacks(dump: Dump) -> None:
    """Both CPUs are there although the panic took one offline, each with its idle and its current task."""
    found = opened(dump.path)
    tasks = read_tasks(found)
    assert len({task.address for task in tasks}) == len(tasks) > 40
    processors = cpus(found)
    assert [cpu.number for cpu in processors] == [0, 1]
    assert {task.comm for task in tasks if task.pid == 0} == {"swapper/0", "swapper/1"}
    assert {task.address for task in tasks if task.on_cpu} == {cpu.current for cpu in processors}
    assert {task.cpu for task in tasks if task.on_cpu} == {0, 1}
    assert {task.state for task in tasks} <= set("RSDIZTtPX")
    assert by_name(tasks, "kthreadd").stack[0].function == "__schedule"
    assert not [task for task in tasks if not task.stack and task.state not in "ZX" and not task.on_cpu]
    for name in dump.expected.get("tasks", ()):
        assert by_name(tasks, name).stack, name
    # wait_for_completion calls its helper last, and its frame is gone: only the module's own functions must be there
    calls = [call for call in dump.expected.get("calls", []) if call != "wait_for_completion"]
    assert not calls or any(in_order(calls, task) for task in tasks), calls
    assert "some tasks" not in found.lost


def test_no_stack_runs_into_user_space_or_garbage(dump: Dump) -> None:
    for task in read_tasks(opened(dump.path)):
        for frame in task.stack:
            assert frame.address is not None
            assert frame.address >> 63, (task.comm, frame)
            assert not frame.function.startswith("0x"), (task.comm, frame)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
@pytest.mark.parametrize("scenario", BLOCKED)
def test_blocked_tasks_wait_as_long_as_the_kernel_says(vmcores: Vmcores, scenario: str, series: str) -> None:
    """They hang for at least the eight seconds of the guest's hung task timeout, measured against the dump's clock."""
    dump = vmcores.get(scenario, series)
    tasks = read_tasks(opened(dump.path))
    for name in dump.expected["tasks"]:
        task = by_name(tasks, name)
        assert task.state == "D"
        assert task.waiting is not None
        assert 7.5 < task.waiting < 120


def test_uninterruptible_sleep_alone_is_normal(vmcores: Vmcores) -> None:
    """Kernel threads that rest are idle, not blocked: only the accused and their bystanders wait long."""
    dump = vmcores.get("abba")
    waiting = [task for task in read_tasks(opened(dump.path)) if task.state == "D" and (task.waiting or 0) > 7.5]
    assert {task.comm for task in waiting} == {*dump.expected["tasks"], *dump.expected["bystanders"]}


def test_a_worker_shows_its_work_although_a_tail_call_hides_frames(vmcores: Vmcores) -> None:
    dump = vmcores.get("uaf")
    busy = next(task for task in read_tasks(opened(dump.path)) if task.on_cpu and task.comm.startswith("kworker"))
    assert busy.worker_function == dump.expected["calls"][-1]


def test_a_kernel_thread_shows_its_function(vmcores: Vmcores) -> None:
    tasks = read_tasks(opened(vmcores.get("abba").path))
    assert by_name(tasks, "khungtaskd").worker_function == "watchdog"
    assert by_name(tasks, "jt_commit").worker_function == "jtable_commit_thread"
    assert by_name(tasks, "init").worker_function == ""


def test_the_other_cpu_of_a_lockup_shows_what_it_spins_on(vmcores: Vmcores) -> None:
    dump = vmcores.get("spinabba")
    running = [task for task in read_tasks(opened(dump.path)) if task.on_cpu]
    assert {task.comm for task in running} == set(dump.expected["tasks"])
    assert all(in_order(dump.expected["calls"], task) for task in running)


@pytest.mark.parametrize(
    ("state", "exit_state", "letter"),
    [
        (0x0, 0, "R"), (0x1, 0, "S"), (0x2, 0, "D"), (0x402, 0, "I"), (0x2402, 0, "I"), (0x102, 0, "D"),
        (0x101, 0, "S"), (0x2001, 0, "S"), (0x104, 0, "T"), (0x8, 0, "t"), (0x40, 0, "P"), (0x200, 0, "R"),
        (0x8000, 0, "D"), (0x1000, 0, "D"), (0x80, 0x20, "Z"), (0x80, 0x10, "X"), (0x80, 0, "X"), (0x0, 0x30, "Z"),
    ],
)  # fmt: skip
def test_state_bits_are_the_letters_of_ps(state: int, exit_state: int, letter: str) -> None:
    assert state_letter(state, exit_state) == letter


def test_what_user_space_left_is_no_kernel_memory(vmcores: Vmcores) -> None:
    """QEMU's dump has physical memory at the virtual address 0, where no null pointer may find data."""
    with pytest.raises(FaultError):
        opened(vmcores.get("abba").path).prog.read_u64(8)


def test_clocks_of_the_cpus_agree(vmcores: Vmcores) -> None:
    clocks = sorted(cpu.clock for cpu in cpus(opened(vmcores.get("abba").path)))
    assert all(later - earlier < 60e9 for earlier, later in pairwise(clocks))
