"""What each sleeping task waits for, without debug information: found by the waiter that it left on its own stack.

A task that blocks on a mutex, rw_semaphore, semaphore or completion puts a small structure on its stack, with a pointer
to itself and a link in the lock's list of waiters. So: search the stack for the task's own address, test each place as
such a structure (its neighbours must link back to it), and follow the list to the one node that is no waiter: that one
lies in the lock. Since kernel 7.1 the waiters of most locks are a ring of their own, to whose first the lock points:
the lock is then the place that does, among those the task names or has on its stack. Which kind of lock it is the
stack's innermost waiting function says, by its exact name, and the lock's own words must agree (a mutex that has
waiters says so in its owner word, an rw_semaphore in its count).
For an rt_mutex there is nothing to search: a task names the waiter that it blocks on, and that its lock.
Wait queues are looked at for tasks in uninterruptible sleep alone: others wait on one as their normal life.

It cannot know: who waits by spinning (see `spin`), or a wait that has no list (``rcuwait``, a bare ``schedule``).
Cost: 30 µs a task that has a waiting function on its stack; the others are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from drgn import Program, offsetof

from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.words import words
from wardround.models.vmcore import LockKind, StackFrame, Task

MOST_WAITERS = 65536
_MOST_TRIED = 64  # places on one stack that hold the task's own address
_MOST_ASKED = 4  # waiters of one ring on whose stacks the lock is looked for
_KERNEL = 1 << 63

# Functions that a waiting task is in, without the compiler's suffixes. Names are compared whole: "__down" begins many.
_MUTEX = """__mutex_lock __mutex_lock_common __mutex_lock_slowpath __mutex_lock_killable_slowpath
    __mutex_lock_interruptible_slowpath mutex_lock mutex_lock_killable mutex_lock_interruptible mutex_lock_io
    mutex_lock_nested mutex_lock_killable_nested mutex_lock_interruptible_nested _mutex_lock_nest_lock
    __ww_mutex_lock __ww_mutex_lock_slowpath __ww_mutex_lock_interruptible_slowpath ww_mutex_lock
    ww_mutex_lock_interruptible"""
_RWSEM = """rwsem_down_read_slowpath rwsem_down_write_slowpath __down_read __down_write __down_read_common
    __down_write_common down_read down_read_killable down_read_interruptible down_write down_write_killable
    down_read_nested down_write_nested down_write_killable_nested"""
_SEMAPHORE = """__down __down_interruptible __down_killable __down_timeout __down_common ___down_common down
    down_interruptible down_killable down_timeout"""
_COMPLETION = """wait_for_common wait_for_common_io __wait_for_common do_wait_for_common wait_for_completion
    wait_for_completion_io wait_for_completion_timeout wait_for_completion_io_timeout wait_for_completion_killable
    wait_for_completion_interruptible wait_for_completion_killable_timeout
    wait_for_completion_interruptible_timeout wait_for_completion_state"""
_NAMES: tuple[tuple[LockKind, str], ...] = (
    ("mutex", _MUTEX),
    ("rwsem", _RWSEM),
    ("semaphore", _SEMAPHORE),
    ("completion", _COMPLETION),
)
WAITING: dict[str, LockKind] = {name: kind for kind, names in _NAMES for name in names.split()}


@dataclass(frozen=True, slots=True)
class Shape:
    """How one kind's waiter and lock look: offsets of the waiter's task from its link, of the list in the lock."""

    kind: LockKind
    task: int
    head: int
    start: int = 0  # of the link in the waiter
    ring: bool = False  # the lock's word points to its first waiter, and no node of the list is the lock's
    writer: int | None = None  # an rwsem waiter's type, from its link: 0 waits to write, 1 to read
    function: int | None = None  # a wait queue entry's wake function, from its link


@dataclass(frozen=True, slots=True)
class Waits:
    """One lock's address and the tasks in its list, first come first; `writers` are those that wait to write."""

    kind: LockKind
    lock: int
    tasks: tuple[int, ...]
    writers: frozenset[int] = frozenset()


def bare(function: str) -> str:
    """A function's name without what the compiler appends: ``__mutex_lock.constprop.0`` is ``__mutex_lock``."""
    return function.partition(".")[0]


def waiting_in(stack: Sequence[StackFrame]) -> tuple[LockKind, int] | None:
    """Return (kind, index of the frame) of the innermost function that waits for a lock."""
    for index, frame in enumerate(stack):
        kind = WAITING.get(bare(frame.function))
        if kind is not None and not frame.module:
            return kind, index
    return None


def shapes_of(prog: Program) -> dict[LockKind, Shape]:
    """Find the shapes in this kernel; a kind whose structures differ from all known ones is left out."""
    found: dict[LockKind, Shape] = {}
    shapes: tuple[tuple[LockKind, str, str, str, str, str], ...] = (
        ("mutex", "struct mutex_waiter", "list", "task", "struct mutex", "wait_list"),
        ("rwsem", "struct rwsem_waiter", "list", "task", "struct rw_semaphore", "wait_list"),
        ("semaphore", "struct semaphore_waiter", "list", "task", "struct semaphore", "wait_list"),
        ("completion", "struct swait_queue", "task_list", "task", "struct completion", "wait.task_list"),
        ("wait_queue", "struct wait_queue_entry", "entry", "private", "struct wait_queue_head", "head"),
    )
    for kind, waiter_name, link, task, lock_name, head in shapes:
        try:
            waiter, lock = prog.type(waiter_name), layout(prog, lock_name)
            at = offsetof(waiter, link)
            found[kind] = Shape(
                kind,
                offsetof(waiter, task) - at,
                lock.at(head, "first_waiter"),
                at,
                lock.has(head) is None,
                offsetof(waiter, "type") - at if kind == "rwsem" else None,
                offsetof(waiter, "func") - at if kind == "wait_queue" else None,
            )
        except (LookupError, TypeError):
            continue
    return found


class Scan:
    """Looks for waiters on stacks. `unsolved` are the tasks in a waiting function whose waiter was not found."""

    def __init__(self, prog: Program, stacks: Stacks, shapes: dict[LockKind, Shape] | None = None) -> None:
        self.prog, self.stacks, self.memory = prog, stacks, words(prog)
        self.shapes = shapes_of(prog) if shapes is None else shapes
        self.unsolved: list[int] = []
        self._nodes: dict[int, LockKind] = {}  # links of waiters already seen

    def run(self, tasks: Iterable[Task]) -> list[Waits]:
        """Return what the tasks wait for, a lock once."""
        found: list[Waits] = []
        inherited: dict[int, list[int]] = {}
        for task in tasks:
            if (lock := self._inheriting(task.address)) is not None:
                inherited.setdefault(lock, []).append(task.address)
                continue
            kind = self._kind(task)
            if kind is None:
                continue
            try:
                known, waits = self._of(task.address, self.shapes[kind])
            except (KeyError, *DAMAGE):
                known, waits = False, None
            if waits is not None:
                found.append(waits)
            elif not known and kind != "wait_queue":
                self.unsolved.append(task.address)
        return found + [Waits("rt_mutex", lock, tuple(waiters)) for lock, waiters in inherited.items()]

    def _inheriting(self, task: int) -> int | None:
        """The rt_mutex (the one in an RT kernel's other locks, too) that a task blocks on."""
        try:
            waiter = self.memory.u64(task + layout(self.prog, "struct task_struct").at("pi_blocked_on"))
            if waiter:
                return self.memory.u64(waiter + layout(self.prog, "struct rt_mutex_waiter").at("lock"))
        except DAMAGE:
            pass  # a kernel built without them, or damage
        return None

    def _kind(self, task: Task) -> LockKind | None:
        """What a task's stack says it waits for."""
        if task.on_cpu or task.state not in ("D", "S"):
            return None
        waiting = waiting_in(task.stack)
        if waiting is not None:
            return waiting[0]
        return "wait_queue" if task.state == "D" else None

    def _of(self, task: int, shape: Shape) -> tuple[bool, Waits | None]:
        """Return (whether the task is in a list seen before, the list it is in where it is new)."""
        for place in self.stacks.find(task, task)[:_MOST_TRIED]:
            link = place - shape.task
            if self._nodes.get(link) == shape.kind:
                return True, None
            if self._linked(link, shape):
                waits = self._list(link, shape)
                if waits is not None:
                    return False, waits
        return False, None

    def _linked(self, link: int, shape: Shape) -> bool:
        """Whether a place is a link of a list: its neighbours, which may be one and the same, point back to it."""
        try:
            after, before = self.memory.u64(link), self.memory.u64(link + 8)
            return (
                min(after, before) >= _KERNEL
                and (after != link or shape.ring)
                and self.memory.u64(after + 8) == link
                and self.memory.u64(before) == link
            )
        except DAMAGE:
            return False

    def _list(self, link: int, shape: Shape) -> Waits | None:
        """Follow a list to its head, the one node that is no waiter."""
        nodes, heads = [link], []
        owners: dict[int, int] = {}
        at = link
        for _ in range(MOST_WAITERS):
            owner = self._waiter(at, shape)
            if owner is not None:
                owners[at] = owner
            elif not self._entry(at, shape):
                heads.append(at)
            following = self.memory.u64(at)
            if following == link:
                break
            if following < _KERNEL or self.memory.u64(following + 8) != at:
                return None
            at = following
            nodes.append(at)
        else:
            return None
        if len(heads) != (0 if shape.ring else 1):
            return None
        if shape.ring:
            lock, first = self._pointing(nodes, owners, shape)
            ordered = nodes[first:] + nodes[:first]
        else:
            lock, first = heads[0] - shape.head, nodes.index(heads[0])
            ordered = [node for node in nodes[first + 1 :] + nodes[:first] if node in owners]
        if not lock or not self._agrees(lock, shape):
            return None
        self._nodes.update(dict.fromkeys(ordered, shape.kind))
        writers = frozenset(owners[node] for node in ordered if self._writes(node, shape))
        return Waits(shape.kind, lock, tuple(owners[node] for node in ordered), writers)

    def _pointing(self, nodes: Sequence[int], owners: Mapping[int, int], shape: Shape) -> tuple[int, int]:
        """Return (the lock that points to one of a ring's waiters or 0, the number of that waiter's node)."""
        starts = {node - shape.start: number for number, node in enumerate(nodes)}
        for node in nodes[:_MOST_ASKED]:
            for lock in self._named(owners[node]):
                try:
                    first = starts.get(self.memory.u64(lock + shape.head))
                    if first is not None and self._agrees(lock, shape):
                        return lock, first
                except DAMAGE:
                    continue
        return 0, 0

    def _named(self, task: int) -> Iterator[int]:
        """Yield addresses that may be of the lock that a task waits for: what the kernel noted for its hang detector
        (with the kind in the low bits), then each that its stack holds."""
        shape = layout(self.prog, "struct task_struct")
        for member in ("blocker", "blocked_on"):
            if shape.has(member):
                yield self.memory.u64(task + shape.at(member)) & ~7
        _, stack = self.stacks.words(task)
        for value in dict.fromkeys(stack.tolist()):
            if value >= _KERNEL and not value & 7:
                yield value

    def _waiter(self, link: int, shape: Shape) -> int | None:
        """The task of a waiter: one whose own stack the waiter lies on."""
        task = self.memory.u64(link + shape.task)
        return task if self.stacks.holds(task, link) else None

    def _entry(self, link: int, shape: Shape) -> bool:
        """Whether a node of a wait queue is an entry without a task (of epoll, say): it has a wake function."""
        if shape.function is None:
            return False
        function = self.memory.u64(link + shape.function)
        try:
            return function >= _KERNEL and self.prog.symbol(function).address == function
        except LookupError:
            return False

    def _writes(self, link: int, shape: Shape) -> bool:
        return shape.writer is not None and self.memory.u32(link + shape.writer) == 0

    def _agrees(self, lock: int, shape: Shape) -> bool:
        """Whether a lock's own words say that it has waiters."""
        if shape.kind == "mutex":
            word = self.memory.u64(lock + layout(self.prog, "struct mutex").at("owner"))
            return bool(word & 1)
        if shape.kind == "rwsem":
            count = self.memory.u64(lock + layout(self.prog, "struct rw_semaphore").at("count"))
            return bool(count & 2)
        return True
