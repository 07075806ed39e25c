"""What several playbooks ask of a crash: its first report, the accused frame, what tasks wait for, poison in sight.

Everything is computed from a `Vmcore` and from nothing else; every part of it may be missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rca.ground import numbers
from rca.model import Finding
from rca.vmcore.story import Suspect, blame, foreign, from_fault, generic, suspect
from wardround.models.diagnosis import Culprit, Number
from wardround.models.vmcore import (
    Anomaly,
    Certainty,
    CrashContext,
    LockCycle,
    Panic,
    Report,
    StackFrame,
    Task,
    Vmcore,
    plain,
)
from wardround.redaction import redact
from wardround.shell import command

WaitKind = Literal["mutex", "rwsem", "semaphore", "completion", "io", "rcu", "timer", "event", "running"]
RECURSION = 4  # times that a function must be on a stack to be taken for what filled it
LOCKS = frozenset({"mutex", "rwsem", "semaphore"})
# Which wait a stack shows, by the functions between the scheduler and the caller; the first that matches counts.
_WAITS: Mapping[WaitKind, re.Pattern[str]] = {
    "mutex": re.compile(r"(?:__)?(?:ww_)?mutex_lock\w*|__mutex_\w+|(?:__)?rt_mutex_(?:slow)?lock\w*|__rt_mutex_\w+"),
    "rwsem": re.compile(r"rwsem_down_\w+|(?:__)?down_(?:read|write)\w*|percpu_rwsem_wait|__?percpu_down_\w+"),
    "semaphore": re.compile(r"(?:__)?down(?:_common|_interruptible|_killable|_timeout)?"),
    "completion": re.compile(r"(?:__)?wait_for_(?:completion|common)\w*|do_wait_for_common|kthread_stop|__flush_w\w*"),
    "io": re.compile(r"io_schedule\w*|bit_wait_io\w*|blk_\w+|(?:__)?folio_(?:wait|lock)\w*|wait_on_(?:page|buffer)\w*"),
    "rcu": re.compile(r"synchronize_\w+|__wait_rcu_gp|rcu_barrier\w*"),
    "timer": re.compile(r"msleep\w*|usleep_range\w*|schedule_hrtimeout\w*|do_nanosleep"),
}
_SCHEDULER = re.compile(
    r"__schedule|schedule(?:_timeout|_preempt_disabled)?|__switch_to\w*|context_switch|schedule_idle"
)
_FUNCTION = re.compile(
    r"(?P<name>[A-Za-z_][\w.]*)(?:\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?)?(?: \[(?P<module>[\w-]+)[^\]]*\])?"
)
_DEPTH = 10  # frames from the scheduler in which a wait shows itself


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for, and the function that asked for it."""

    kind: WaitKind
    caller: StackFrame | None
    through: str  # the primitive's outermost function


@dataclass(frozen=True)
class Facts:
    """A crash as the playbooks see it. `when` is the Unix time of the crash, as well as it is known."""

    vmcore: Vmcore
    when: float

    @cached_property
    def panic(self) -> Panic | None:
        return self.vmcore.panic

    @cached_property
    def kind(self) -> str:
        return self.panic.kind if self.panic else ""

    @cached_property
    def report(self) -> Report | None:
        """The log's report that the panic was built from."""
        if self.panic is None:
            return None
        titled = (r for r in self.vmcore.reports if r.title == self.panic.report)
        return next(titled, None) or next((r for r in self.vmcore.reports if r.kind == self.kind), None)

    @cached_property
    def context(self) -> CrashContext | None:
        if self.panic is not None and self.panic.context is not None:
            return self.panic.context
        return self.report.context if self.report else None

    @cached_property
    def stack(self) -> tuple[StackFrame, ...]:
        if self.panic is not None and self.panic.stack:
            return self.panic.stack
        return self.report.stack if self.report else ()

    @cached_property
    def foreign(self) -> frozenset[str]:
        return foreign(self.vmcore.modules)

    @cached_property
    def jumped(self) -> bool:
        """Whether the CPU ran code that is none: then the frames that the unwinder is sure of may skip the caller."""
        rip = dict(self.context.registers).get("RIP") if self.context else None
        broken = self.context is not None and not self.context.function and not self.context.repaired
        return broken and rip is not None and rip > 0xFFFF

    @cached_property
    def accused(self) -> Suspect | None:
        """The frame that the crash's stack accuses; a report that names a function itself is believed first."""
        if (tracked := self._tracked) is not None:
            return Suspect(tracked, (), "where the kernel recorded the object's last change of hands")
        if (recursing := self._recursing) is not None:
            return recursing
        if (caller := self._through_pointer) is not None:
            return caller
        if self.jumped:
            known = tuple(frame for frame in self.stack if not frame.function.startswith("0x"))
            found = suspect(known, self.foreign, unsure=True) or self._work
        else:
            found = suspect(self.stack, self.foreign) or self._work or blame(self.stack, self.foreign)
        frame = self._told
        if frame is not None and (found is None or self._named):
            named = suspect((frame,), self.foreign)
            return named or found
        return found

    @cached_property
    def _through_pointer(self) -> Suspect | None:
        """Who called through a bad pointer, where no module's code is on the stack: general machinery that runs what it
        was handed."""
        context, frames = self.context, from_fault(self.stack)
        if context is None or context.access != "execute" or not context.repaired or not frames:
            return None
        if any(frame.module in self.foreign for frame in frames):
            return None
        return Suspect(frames[0], (), "the function that called through the bad pointer")

    @cached_property
    def _recursing(self) -> Suspect | None:
        """What fills an overrun stack: the function that stands there most often, not the one that hit its end."""
        frames = [frame for frame in self.stack if frame.sure and not generic(frame)]
        counts = Counter((frame.function, frame.module) for frame in frames)
        if self.kind not in ("stack_overflow", "double_fault") or not counts:
            return None
        most, times = counts.most_common(1)[0]
        if times < RECURSION:
            return None
        frame = next(frame for frame in frames if (frame.function, frame.module) == most)
        return Suspect(frame, (), f"the function that is {times} times on the stack")

    @cached_property
    def _told(self) -> StackFrame | None:
        """The function that a checker's own report names, which may not be where the kernel stopped later; else the
        panic's."""
        if self._named and self.report is not None and not self.report.fatal and self.report.function:
            return StackFrame(self.report.function, module=self.report.module)
        if self.panic is not None and self.panic.function and not self.panic.function.startswith("0x"):
            return StackFrame(self.panic.function, module=self.panic.module)
        return None

    @cached_property
    def _work(self) -> Suspect | None:
        """The work item that ran: where calls from the end of a function left no other frame of its module."""
        work = self.report.detail("work") if self.report else ""
        module = self.report.detail("work_module") if self.report else ""
        task = self.panic.task if self.panic is not None else None
        running = next((item for item in self.vmcore.work if task is not None and item.task == task), None)
        if not work and running is not None:
            work, module = running.function, running.module
        frame, why = StackFrame(work, module=module), "the work item that ran"
        if not work and (ran := self.vmcore.task(task)) is not None:
            frame, why = StackFrame(ran.worker_function), "the function that the thread runs"
        return Suspect(frame, (), why) if frame.function and suspect((frame,), self.foreign) else None

    @cached_property
    def earlier(self) -> bool:
        """Whether the crash only came, or was asked for, after a report that had killed a task before."""
        return self.report is not None and not self.report.fatal and bool(self.report.detail("oops"))

    @cached_property
    def _tracked(self) -> StackFrame | None:
        """Slab checks trip over an object anywhere; who freed it (or, overrun, allocated it) is nearer to the fault."""
        if self.kind != "slab_corruption" or self.report is None:
            return None
        after_free = any(word in self.report.detail("how") for word in ("Poison", "free"))
        first, second = ("freed_in", "allocated_in") if after_free else ("allocated_in", "freed_in")
        found = _FUNCTION.match(self.report.detail(first) or self.report.detail(second))
        return StackFrame(found["name"], module=found["module"] or "") if found else None

    @cached_property
    def _named(self) -> bool:
        """Reports of checkers name the access, which beats the stack of who noticed."""
        return self.kind in ("use_after_free", "out_of_bounds", "stack_protector")

    @cached_property
    def source(self) -> str:
        return "kernel log" if self.vmcore.header.tier == "log" else "crash dump"

    def hung(self) -> tuple[Task, ...]:
        """Tasks the kernel reported as hung; else those that sleep uninterruptibly for two minutes or more."""
        pids = {report.pid for report in self.vmcore.reports if report.kind == "hung_task"}
        told = tuple(task for task in self.vmcore.tasks if task.pid in pids)
        return told or tuple(t for t in self.vmcore.tasks if t.state.startswith("D") and (t.waiting or 0.0) >= 120.0)

    def poisons(self) -> Iterator[tuple[str, int, str]]:
        """Where, what and in words: poison and freed fills in the fault's address and registers."""
        context = self.context
        if context is None:
            return
        if context.address is not None and (words := freed(context.address)):
            yield "the faulting address is", context.address, words
        for name, value in context.registers.items():
            if value != context.address and (words := freed(value)):
                yield f"{name} holds", value, words
        if context.address is not None and (letters := text(context.address)):
            yield "the faulting address is", context.address, f"the text “{letters}” in place of a pointer"

    def first_report(
        self, value: float, values: Mapping[str, Number] | None = None, lacks: Collection[str] = ()
    ) -> Finding | None:
        """The finding that every playbook weighs: the class of the first report, where it arose, its own words.

        Where it speaks against a fault whose reports are of the classes `lacks`, that none of them is there.
        """
        panic = self.panic
        if panic is None:
            return None
        title = panic.report or panic.message
        held: dict[str, Number] = dict(values or {})
        who = f", in {self.who()}" if self.who() else ""
        cpu = panic.cpu if self.report is None or self.report.cpu is None else self.report.cpu
        if cpu is not None:
            held["cpu"] = cpu
            who += f" on CPU {cpu}"
        words = self.kind.replace("_", " ")
        if value <= 0.0 and lacks and not any(report.kind in lacks for report in self.vmcore.reports):
            none = " or ".join(kind.replace("_", " ") for kind in sorted(lacks))
            return self.finding(0.0, f"no report of the class {none} stands in the log", title[:80])
        return self.finding(value, f"the kernel's first report{who} is of the class {words}: {title}", title[:80], held)

    def who(self) -> str:
        """The task in which it arose, as the first report's finding tells it; empty where unknown."""
        if self.report is not None and self.report.comm:
            return f"{self.report.comm} (pid {self.report.pid})"
        task = self.vmcore.task(self.panic.task) if self.panic is not None else None
        return task.name if task else ""

    def anomalies(self, *words: str) -> tuple[Anomaly, ...]:
        """Anomalies whose kind holds one of these words."""
        return tuple(a for a in self.vmcore.anomalies if any(word in a.kind.lower() for word in words))

    def cycle(self, spinning: bool = False) -> LockCycle | None:
        """The surest cycle of tasks that wait for each other: asleep, or `spinning` for spinlocks alone."""
        order: tuple[Certainty, ...] = ("read", "derived", "inferred", "hint")
        spinlocks = {lock.address for lock in self.vmcore.locks if lock.kind == "spinlock"}
        found = [cycle for cycle in self.vmcore.cycles if spinlocks.issuperset(cycle.locks) == spinning]
        return min(found, key=lambda cycle: order.index(cycle.certainty), default=None)

    def finding(
        self,
        value: float,
        statement: str,
        look_for: str,
        values: Mapping[str, Number] | None = None,
        unit: str = "1",
        show: Sequence[str] = (),
    ) -> Finding:
        """An answer; figures that `statement` quotes from the kernel's own line are kept with it, secrets are not.

        `look_for` is what a line of the log holds about it, `show` the option with its words by which
        `diagnose vmcore show` shows it in a dump.
        """
        statement = redact(statement)
        held: dict[str, Number] = dict(values or {})
        known = {float(v) for v in held.values() if v is not None}
        for n, figure in enumerate((f for f in numbers(statement) if float(f) not in known), 1):
            held[f"quoted_{n}"] = float(figure)
        return Finding(
            value=value,
            statement=statement,
            values=held,
            unit=unit,
            reproduce=self._again(look_for, show),
            source="collectors.vmcore",
            kind="vmcore",
            onset=self.onset(),
        )

    def _again(self, look_for: str, show: Sequence[str]) -> str:
        """The command that shows a finding again: the narrowest question that the file answers."""
        path = self.vmcore.header.path or "vmcore-dmesg.txt"
        if any(part.name == "vmcore.tasks" for part in self.vmcore.skipped):
            show = ()  # nothing but the log can be asked
        if self.vmcore.header.tier == "log":
            return command("grep -n -F -- {} {}", look_for, path)
        if not show and len(look_for) > 1 and any(look_for.casefold() in x.text.casefold() for x in self.vmcore.log):
            show = ("--log", look_for)
        if not show:
            return command("diagnose vmcore {} -o json", path)
        return command(f"diagnose vmcore show {{}} {show[0]}" + " {}" * (len(show) - 1), path, *show[1:])

    def show_stack(self) -> tuple[str, ...]:
        """The question for the stack of the task in which it arose; none where that task is not known."""
        task = self.vmcore.task(self.panic.task) if self.panic is not None else None
        pid = self.report.pid if self.report is not None and self.report.pid is not None else task.pid if task else None
        lives = not self.vmcore.tasks or any(task.pid == pid for task in self.vmcore.tasks)
        return ("--stack", str(pid)) if pid and lives else ()

    def onset(self) -> float | None:
        """When the first report was written, Unix seconds; unknown where the log does not tell the clock."""
        header, report = self.vmcore.header, self.report
        if header.time is None or header.uptime is None or report is None:
            return None
        return header.time - max(header.uptime - report.time, 0.0)


_FREED = (
    (0x6B, "the fill of freed slab memory (0x6b)"),
    (0xBB, "the red zone of a freed object (0xbb)"),
    (0xAA, "the fill of freed pages (0xaa)"),
    (0x5A, "the fill of slab memory never written (0x5a)"),
    (0xA5, "the end mark of a freed object (0xa5)"),
)


def text(value: int) -> str:
    """The letters of a value that is text and no pointer: eight printable ones; else nothing.

    >>> text(0x762D646E612D7465), text(0xFFFF888012345678)
    ('et-and-v', '')
    """
    letters = value.to_bytes(8, "little") if 0 <= value < 1 << 64 else b""
    return letters.decode("ascii") if letters and all(0x20 <= letter < 0x7F for letter in letters) else ""


def freed(value: int) -> str:
    """In words which poison a value is, an offset added or not; empty where it is none.

    >>> freed(0x6B6B6B6B6B6B6B93), freed(0xDEAD000000000108)
    ('the fill of freed slab memory (0x6b)', 'the poison of a deleted list entry')
    """
    if 0xDEAD000000000100 <= value < 0xDEAD000000001000:
        return "the poison of a deleted list entry"
    for byte, words in _FREED:
        if value >> 16 == int.from_bytes(bytes([byte]) * 6, "big"):
            return words
    return ""


def waits(stack: tuple[StackFrame, ...]) -> Wait:
    """What a sleeping task waits for, from its stack.

    The outermost function of the waiting primitive and the first frame beyond it are named.
    """
    frames = [frame for frame in stack if frame.sure] or list(stack)
    start = next((n for n, frame in enumerate(frames[:_DEPTH]) if _SCHEDULER.fullmatch(plain(frame.function))), None)
    if start is None:
        return Wait("running", frames[0] if frames else None, "")
    at = start
    while at < len(frames) and _SCHEDULER.fullmatch(plain(frames[at].function)):
        at += 1
    kind: WaitKind = "event"
    through = ""
    while at < min(len(frames), start + 2 * _DEPTH) and not frames[at].module:
        name = plain(frames[at].function)
        matched = next((k for k, pattern in _WAITS.items() if pattern.fullmatch(name)), None)
        if matched is None and kind != "event":
            break
        if matched is None and suspect((frames[at],)) is not None:
            break
        if matched is not None:
            kind, through = (matched if kind == "event" else kind), name
        at += 1
    return Wait(kind, frames[at] if at < len(frames) else None, through)


def function_of(frame: StackFrame) -> Culprit:
    """A culprit from a frame."""
    labels = (("module", frame.module),) if frame.module else ()
    if frame.file and frame.line:
        labels = (*labels, ("source", f"{frame.file}:{frame.line}"))
    return Culprit("kernel_function", plain(frame.function), None, labels)
