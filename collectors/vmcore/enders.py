"""Which task a completion waits for, where the kernel itself says so: the end of a task, or a running work item.

* ``kthread_stop`` and ``vfork`` wait for a completion that a task names as the one to complete when it ends.
* ``flush_work`` and ``cancel_work_sync`` put a barrier behind the work item, in the list of the worker that runs it.
Completions of drivers and file systems name nobody: who should complete them only their code knows.
Cost: 1 µs a task, once; a list of a few entries for each barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from drgn import Program

from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.walk import nodes
from collectors.vmcore.words import words
from wardround.models.vmcore import Certainty, Lock, Task

_MOST_LISTED = 4096
_FLUSHING = frozenset(["__flush_work", "flush_work", "__cancel_work_sync", "__cancel_work_timer", "cancel_work_sync"])


@dataclass(frozen=True, slots=True)
class Ender:
    """The task that is to complete something, and why it is known."""

    task: int
    certainty: Certainty
    text: str


class Enders:
    """Looks for the tasks that are to complete what others wait for."""

    def __init__(self, prog: Program, tasks: Sequence[Task]) -> None:
        self.prog = prog
        self.tasks = {task.address: task for task in tasks}

    def of(self, lock: Lock) -> Ender | None:
        """Return who is to complete a completion, or None."""
        task = self._by_completion.get(lock.address)
        if task is not None:
            return Ender(task, "derived", f"{self.tasks[task].name} completes it when it ends")
        try:
            return self._of_barrier(lock)
        except DAMAGE:
            return None

    @cached_property
    def _by_completion(self) -> dict[int, int]:
        """Tasks by the completion that they complete when they end."""
        found: dict[int, int] = {}
        try:
            at = layout(self.prog, "struct task_struct").at("vfork_done")
        except LookupError:
            return found
        memory = words(self.prog)
        for task in self.tasks:
            try:
                completion = memory.u64(task + at)
            except DAMAGE:
                continue
            if completion:
                found[completion] = task
        return found

    def _of_barrier(self, lock: Lock) -> Ender | None:
        """The worker whose list of work to come has the barrier that a flush waits for."""
        if not any(self._flushes(waiter) for waiter in lock.waiters):
            return None
        barrier = lock.address - layout(self.prog, "struct wq_barrier").at("done")
        entry = barrier + layout(self.prog, "struct wq_barrier").at("work.entry")
        worker_at = layout(self.prog, "struct worker")
        memory = words(self.prog)
        for node in nodes(self.prog, entry, _MOST_LISTED):
            worker = node - worker_at.at("scheduled")
            try:
                task = memory.u64(worker + worker_at.at("task"))
            except DAMAGE:
                continue
            found = self.tasks.get(task)
            if found is not None and found.comm.startswith("kworker"):
                doing = f", which runs {found.worker_function}" if found.worker_function else ""
                return Ender(task, "derived", f"the work item that is flushed is with {found.name}{doing}")
        return None

    def _flushes(self, task: int) -> bool:
        found = self.tasks.get(task)
        return found is not None and any(f.function.partition(".")[0] in _FLUSHING for f in found.stack)
