"""Who may hold a lock that does not remember its owner: clues in what the tasks run and keep on their stacks.

* A function that a task is in takes the lock before the point where the task stands, by the code: inferred.
* A function that a task is in takes a lock of that kind, and the task's stack keeps the lock's address: inferred.
* The stack alone keeps the address: a hint.
Sources: the kernel's text (`lockcalls`), the stacks' words. A clue is no proof: the code's order is not always that of
the run, and a stack keeps leftovers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from drgn import Program
from numpy.typing import NDArray

from collectors.vmcore.lockcalls import Code
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.places import place_of
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.waiters import waiting_in
from wardround.models.vmcore import Certainty, Lock, StackFrame, Task

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
        found = [clue for task in self.tasks if (clue := self._of(lock, task, base)) is not None]
        return sorted(found, key=lambda c: (c.certainty == "hint", c.task != remembered))

    def _of(self, lock: Lock, task: Task, base: int) -> Clue | None:
        waiting = waiting_in(task.stack)
        outer = task.stack[waiting[1] + 1 if waiting else 0 :]
        clue = self.by_code(lock, task, outer)
        if clue is not None or task.on_cpu or task.address in lock.waiters:
            return clue
        try:
            words = self.stacks.words(task.address)[1]
        except (KeyError, *DAMAGE):
            return None
        return self.by_stack(lock, task, outer, words, base)

    def by_code(self, lock: Lock, task: Task, outer: Sequence[StackFrame]) -> Clue | None:
        """A clue by the innermost frame whose function names the lock, has taken it and not released it."""
        for frame in outer[:_MOST_FRAMES]:
            if frame.address is None:
                continue
            holds = self.code.holds(frame.address, lock.kind, lock.address, bool(frame.module))
            if holds:
                text = f"{task.name} is in {frame.name}, which takes it before that point"
                return Clue(task.address, "inferred", text)
            if holds is not None:
                return None
        return None

    def by_stack(
        self, lock: Lock, task: Task, outer: Sequence[StackFrame], words: NDArray[np.uint64], base: int
    ) -> Clue | None:
        """A clue by the words of a task's stack: they hold the lock's address, or that of the object it is part of."""
        exact = bool((words == np.uint64(lock.address)).any())
        if not exact and not (words == np.uint64(base)).any():
            return None
        kept = "its address" if exact else "the address of what it is part of"
        # Where a function reaches for a lock as far into an object as this one lies, it is likely this one.
        offset = lock.address - base if base != lock.address else None
        tries = ([offset] if offset is not None else []) + ([None] if exact else [])
        for wanted in tries:
            for frame in outer[:_MOST_FRAMES]:
                if frame.address is not None and self.code.takes_at(frame.address, lock.kind, wanted):
                    text = f"the stack of {task.name} keeps {kept}, and {frame.name} takes a {lock.kind} before that"
                    return Clue(task.address, "inferred", text)
        return Clue(task.address, "hint", f"the stack of {task.name} keeps {kept}")


def module_of(tasks: Mapping[int, Task], task: int) -> str:
    """The module a task is in: that of its innermost frame outside of the kernel itself; empty where there is none."""
    found = tasks.get(task)
    return next((frame.module for frame in found.stack if frame.module), "") if found else ""
