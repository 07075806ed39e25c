"""All tasks of a dump: state, CPU, how long each waits, its stack, and what a kernel thread or worker was doing.

Source: `init_task` and the list of thread groups from it, each group's threads, and every present CPU's idle task and
current task (after a panic the other CPUs count as offline, so those present are asked). Times are the scheduler's:
the dump's "now" is the latest clock of any CPU. It cannot know tasks that a damaged list hides, nor since when a task
sleeps: `waiting` is the time since it last got a CPU. Uninterruptible sleep alone is no fault: workers rest in it.
Measured cost: 0.25 ms a task with its stack (1,560 tasks: 0.36 s).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from drgn import FaultError, Object, Program, Type, sizeof
from drgn.helpers.linux.cpumask import for_each_present_cpu
from drgn.helpers.linux.percpu import per_cpu

from collectors.vmcore.layout import Layout, layout
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.stacks import Unwinder, unwinder
from collectors.vmcore.walk import nodes
from collectors.vmcore.words import words
from wardround.models.vmcore import StackFrame, Task
from wardround.text import clean, clean_bytes

MOST_TASKS = 100_000
MOST_STACKS = 6_000
MOST_CPUS = 1024
_COMM = 64
_KTHREAD, _WORKER = 0x200000, 0x20
_UNINTERRUPTIBLE, _NOLOAD, _RTLOCK = 0x2, 0x400, 0x1000
_TRACED, _STOPPED, _PARKED, _INTERRUPTIBLE, _FROZEN = 0x8, 0x4, 0x40, 0x1, 0x8000
_EXIT_DEAD, _ZOMBIE, _DEAD = 0x10, 0x20, 0x80


@dataclass(frozen=True, slots=True)
class Cpu:
    """One present CPU: its scheduler's clock in ns, the addresses of its current and its idle task."""

    number: int
    clock: int
    current: int
    idle: int


def state_letter(state: int, exit_state: int = 0) -> str:
    """Return a task's state as ps shows it. Bits the kernel combines (killable, freezable) do not change the letter.

    >>> state_letter(0), state_letter(1), state_letter(2), state_letter(0x402), state_letter(0, 0x20)
    ('R', 'S', 'D', 'I', 'Z')
    """
    if exit_state & _ZOMBIE:
        return "Z"
    if exit_state & _EXIT_DEAD or state & _DEAD:
        return "X"
    if state & _UNINTERRUPTIBLE and state & _NOLOAD:
        return "I"
    for bits, letter in (
        (_INTERRUPTIBLE, "S"), (_UNINTERRUPTIBLE | _RTLOCK | _FROZEN, "D"), (_STOPPED, "T"), (_TRACED, "t"),
        (_PARKED, "P"),
    ):  # fmt: skip
        if state & bits:
            return letter
    return "R"


def cpus(dump: Dump) -> tuple[Cpu, ...]:
    """Return every present CPU's clock, current and idle task. CPUs that cannot be read are told in `dump.lost`."""
    prog = dump.prog
    found: list[Cpu] = []
    for number in _present(prog):
        try:
            queue = per_cpu(prog["runqueues"], number)
            found.append(Cpu(number, queue.clock.value_(), queue.curr.value_(), queue.idle.value_()))
        except (KeyError, *DAMAGE) as error:
            dump.lost["a CPU's run queue"] = f"that of CPU {number} cannot be read ({error})"
    return tuple(found)


def _present(prog: Program) -> list[int]:
    try:
        return list(for_each_present_cpu(prog))[:MOST_CPUS]
    except (KeyError, *DAMAGE):
        return [0]


def task_addresses(dump: Dump, processors: Iterable[Cpu] = ()) -> Iterator[int]:
    """Yield the address of every task once: idle and current ones, then thread groups with their threads.

    :raises LookupError: there is no symbol `init_task` or no type of tasks
    """
    prog, memory = dump.prog, words(dump.prog)
    task_at = layout(prog, "struct task_struct")
    first = prog.symbol("init_task").address
    seen: set[int] = set()
    for task in [first, *(cpu.idle for cpu in processors)]:
        if task and task not in seen:
            seen.add(task)
            yield task
    sibling, own, signal = task_at.at("tasks"), task_at.at("thread_node"), task_at.at("signal")
    head = layout(prog, "struct signal_struct").at("thread_head")
    for node in nodes(prog, first + sibling, MOST_TASKS, "tasks"):
        leader = node - sibling
        threads = [leader]
        try:
            group = memory.u64(leader + signal)
        except FaultError:
            group = 0
        if group:
            threads += [each - own for each in nodes(prog, group + head, MOST_TASKS - len(seen))]
        for task in threads:
            if task not in seen and len(seen) < MOST_TASKS:
                seen.add(task)
                yield task
    for task in (cpu.current for cpu in processors):
        if task and task not in seen:  # exiting: it runs, but is on no list any more
            seen.add(task)
            yield task


def read_tasks(dump: Dump) -> tuple[Task, ...]:
    """Return all tasks, those without a process first. What could not be read is told in `dump.lost`.

    :raises LookupError: there is no symbol `init_task` or no type of tasks
    """
    reader = _Reader(dump, cpus(dump))
    tasks: list[Task] = []
    damaged = 0
    for address in task_addresses(dump, reader.cpus):
        try:
            tasks.append(reader.task(address))
        except DAMAGE:
            damaged += 1
    if damaged:
        dump.lost["some tasks"] = f"{damaged} of {damaged + len(tasks)} tasks lie in memory that cannot be read"
    _compare(dump, sum(task.pid != 0 for task in tasks) + damaged)
    chosen = {task.address for task in sorted(tasks, key=_urgency)[:MOST_STACKS]}
    if len(tasks) > MOST_STACKS:
        dump.lost["some stacks"] = f"{len(tasks) - MOST_STACKS} sleeping tasks' stacks were left out: too many tasks"
    stacks = unwinder(dump)
    return tuple(reader.with_stack(task, stacks) if task.address in chosen else task for task in tasks)


def _compare(dump: Dump, found: int) -> None:
    """The kernel counts its threads; a list that breaks off or runs in a circle has fewer."""
    try:
        expected = dump.prog.read_u32(dump.prog.symbol("nr_threads").address)
    except DAMAGE:
        return
    if found < expected <= MOST_TASKS:
        dump.lost["hidden tasks"] = f"{expected - found} of {expected} tasks are not on the lists: a list is damaged"


def _urgency(task: Task) -> tuple[bool, int]:
    return not task.on_cpu, "DRItTSPZX".find(task.state)


class _Reader:
    """Reads a task's members at their offsets: looked up once, not per task."""

    def __init__(self, dump: Dump, processors: tuple[Cpu, ...]) -> None:
        self.dump, self.cpus, self.memory = dump, processors, words(dump.prog)
        prog = dump.prog
        task = layout(prog, "struct task_struct")
        self._pointer: Type = prog.pointer_type(task.type)
        self._now = max((cpu.clock for cpu in processors), default=0)
        self._running = {cpu.current: cpu.number for cpu in processors}
        self._idle = {cpu.idle: cpu.number for cpu in processors}
        self._names: dict[int, str] = {}
        self._state, self._exit = task.at("__state", "state"), task.at("exit_state")
        self._pid, self._tgid = task.at("pid"), task.at("tgid")
        self._comm, self._flags = task.at("comm"), task.at("flags")
        self._comm_size = min(sizeof(task.type.member("comm").type), _COMM)
        self._cpu = _optional(task, "thread_info.cpu", "cpu", "recent_used_cpu")
        self._arrival = _optional(task, "sched_info.last_arrival")
        self._thread = _optional(task, "worker_private", "set_child_tid")
        self._data = layout(prog, "struct kthread").at("data")
        self._threadfn = _optional(layout(prog, "struct kthread"), "threadfn")
        self._current = layout(prog, "struct worker").at("current_func")

    def task(self, address: int) -> Task:
        """:raises FaultError: the task lies in memory that is missing"""
        memory = self.memory
        flags = memory.u32(address + self._flags)
        on_cpu = address in self._running
        cpu = self._running.get(address, self._idle.get(address, -1))
        if cpu < 0:
            cpu = memory.u32(address + self._cpu) if self._cpu is not None else 0
        comm = memory.read(address + self._comm, self._comm_size).split(b"\0", 1)[0]
        return Task(
            address=address,
            pid=memory.s32(address + self._pid),
            tgid=memory.s32(address + self._tgid),
            comm=clean_bytes(comm, _COMM),
            state=state_letter(memory.u32(address + self._state), memory.u32(address + self._exit)),
            cpu=cpu if 0 <= cpu < 1 << 20 else 0,
            on_cpu=on_cpu,
            waiting=0.0 if on_cpu else self._waiting(address),
            worker_function=self._function(address, flags) if flags & _KTHREAD else "",
        )

    def with_stack(self, task: Task, stacks: Unwinder) -> Task:
        """Unwind a task's stack; where that fails the task is returned without one."""
        if task.state in "ZX" and not task.on_cpu:
            return task
        try:
            stack = stacks.stack(Object(self.dump.prog, self._pointer, value=task.address)).frames
        except DAMAGE:
            return task
        return _with(task, stack)

    def _waiting(self, address: int) -> float | None:
        if self._arrival is None or not self._now:
            return None
        arrival = self.memory.u64(address + self._arrival)
        if not arrival:
            return None  # it never ran
        return max(0, self._now - arrival) / 1e9

    def _function(self, address: int, flags: int) -> str:
        """The function of the work item that a worker has in hand, else the kernel thread's own."""
        memory = self.memory
        if self._thread is None or address in self._idle:
            return ""
        try:
            thread, function = memory.u64(address + self._thread), 0
            if flags & _WORKER and (worker := memory.u64(thread + self._data)):
                function = memory.u64(worker + self._current)
            if not function and self._threadfn is not None:
                function = memory.u64(thread + self._threadfn)
        except FaultError:
            return ""
        return self._name(function)

    def _name(self, function: int) -> str:
        if function not in self._names:
            try:
                name = self.dump.prog.symbol(function).name
            except LookupError:
                name = ""
            self._names[function] = clean(name, 256)
        return self._names[function]


def _with(task: Task, stack: tuple[StackFrame, ...]) -> Task:
    return Task(
        task.address, task.pid, task.tgid, task.comm, task.state, task.cpu, task.on_cpu, task.waiting, stack,
        task.worker_function,
    )  # fmt: skip


def _optional(structure: Layout, *names: str) -> int | None:
    """The offset of the first of these members, where the dump's kernel has one."""
    return structure.at(*names) if structure.has(*names) else None
