"""Who may hold a lock that does not remember its owner: clues in what the tasks run and keep on their stacks.

* A function that a task is in takes the lock before the point where the task stands, by the code: inferred.
* A function that a task is in takes a lock of that kind, and the task's stack keeps the lock's address: inferred.
* The stack alone keeps the address: a hint.
Sources: the kernel's text (`lockcalls`), the stacks' words. A clue is no proof: the code's order is not always that of the
run, and a stack keeps leftovers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drgn import Program

from collectors.vmcore.lockcalls import Code
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.places import place_of
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.waiters import waiting_in
from wardround.models.vmcore import Certainty, Lock, LockKind, StackFrame, Task

_MOST_FRAMES = 32
_MOST_TASKS = 4096


@dataclass(frozen=True, slots=True)
class Clue:
    """Why a task is taken for a lock's holder."""

    task: int
    certainty: Certainty
    text: str


class Clues:
    """Looks for the holders of locks among tasks. `tasks` need their stacks, with addresses."""

    def __init__(self, prog: Program, tasks: Sequence[Task], stacks: Stacks) -> None:
        self.prog, self.stacks = prog, stacks
        self.code = Code(prog)
        self.tasks = [task for task in tasks if task.stack][:_MOST_TASKS]

    def holders(self, lock: Lock, remembered: int | None = None) -> list[Clue]:
        """Return the clues, the surest first; of equally sure ones the task first that the lock remembers."""
        base = place_of(self.prog, lock.address).base
        addresses = tuple(dict.fromkeys((lock.address, base)))
        found = [clue for task in self.tasks if (clue := self._of(lock, task, addresses)) is not None]
        return sorted(found, key=lambda c: (c.certainty == "hint", c.task != remembered))

    def _of(self, lock: Lock, task: Task, addresses: tuple[int, ...]) -> Clue | None:
        waiting = waiting_in(task.stack)
        outer = task.stack[waiting[1] + 1 if waiting else 0 :][:_MOST_FRAMES]
        frame = self.takes(lock.kind, outer, addresses)
        if frame is not None:
            return Clue(task.address, "inferred", f"{task.name} is in {frame.name}, which takes it before that point")
        if task.on_cpu or task.address in lock.waiters or not self._keeps(task.address, addresses):
            return None
        if (taker := self.taker(lock.kind, outer)) is not None:
            return Clue(
                task.address,
                "inferred",
                f"the stack of {task.name} keeps its address, and {taker.name} takes a {lock.kind} before that point",
            )
        return Clue(task.address, "hint", f"the stack of {task.name} keeps its address")

    def takes(self, kind: LockKind, stack: Sequence[StackFrame], addresses: tuple[int, ...]) -> StackFrame | None:
        """Return the innermost frame whose function names the lock, has taken it and not released it."""
        for frame in stack:
            if frame.address is not None:
                holds = self.code.holds(frame.address, kind, addresses)
                if holds is not None:
                    return frame if holds else None
        return None

    def taker(self, kind: LockKind, stack: Sequence[StackFrame]) -> StackFrame | None:
        """Return the innermost frame whose function has taken some lock of a kind as the last thing of its kind."""
        for frame in stack:
            calls = [] if frame.address is None else self.code.calls(frame.address, kind)
            if calls and calls[-1][1]:
                return frame
        return None

    def _keeps(self, task: int, addresses: tuple[int, ...]) -> bool:
        try:
            return any(self.stacks.find(task, address) for address in addresses)
        except (KeyError, *DAMAGE):
            return False


def group_of(tasks: Mapping[int, Task], task: int) -> str:
    """The module a task is in: that of its innermost frame outside of the kernel itself; empty where there is none."""
    found = tasks.get(task)
    return next((frame.module for frame in found.stack if frame.module), "") if found else ""
