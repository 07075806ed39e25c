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
        # Tasks that stand at the same places are looked at together: most of a thousand idle ones do.
        self._alike: dict[tuple[int | None, ...], tuple[Sequence[StackFrame], list[Task]]] = {}
        for task in [task for task in tasks if task.stack][:_MOST_TASKS]:
            waiting = waiting_in(task.stack)
            outer = task.stack[waiting[1] + 1 if waiting else 0 :][:_MOST_FRAMES]
            self._alike.setdefault(tuple(frame.address for frame in outer), (outer, []))[1].append(task)

    def holders(self, lock: Lock, remembered: int | None = None) -> list[Clue]:
        """Return the clues, the surest first; of equally sure ones the task first that the lock remembers."""
        base = place_of(self.prog, lock.address).base
        found: list[Clue] = []
        for outer, tasks in self._alike.values():
            named, frame = self.by_code(lock, outer)
            if frame is not None:
                found += [told(task, frame) for task in tasks]
            elif not named:
                found += [clue for task in tasks if (clue := self._kept(lock, task, outer, base)) is not None]
        return sorted(found, key=lambda c: (c.certainty == "hint", c.task != remembered))

    def by_code(self, lock: Lock, outer: Sequence[StackFrame]) -> tuple[bool, StackFrame | None]:
        """Return (whether a function names the lock, the innermost that does if it has taken and not released it)."""
        for frame in outer[:_MOST_FRAMES]:
            if frame.address is not None:
                holds = self.code.holds(frame.address, lock.kind, lock.address, bool(frame.module))
                if holds is not None:
                    return True, frame if holds else None
        return False, None

    def _kept(self, lock: Lock, task: Task, outer: Sequence[StackFrame], base: int) -> Clue | None:
        """A clue by a sleeping task's stack. Those that wait for the lock keep its address for that alone."""
        if task.on_cpu or task.address in lock.waiters:
            return None
        try:
            words = self.stacks.words(task.address)[1]
        except (KeyError, *DAMAGE):
            return None
        return self.by_stack(lock, task, outer, words, base)

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


def told(task: Task, frame: StackFrame) -> Clue:
    """The clue by a function that takes the lock."""
    return Clue(task.address, "inferred", f"{task.name} is in {frame.name}, which takes it before that point")


def module_of(tasks: Mapping[int, Task], task: int) -> str:
    """The module a task is in: that of its innermost frame outside of the kernel itself; empty where there is none."""
    found = tasks.get(task)
    return next((frame.module for frame in found.stack if frame.module), "") if found else ""
