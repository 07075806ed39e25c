"""Crash reports of a kernel log: where each begins and ends, what kind it is, and what it names.

Lines of different writers are kept apart where the kernel prints caller ids. It cannot know reports that were rate
limited or lost, nor follow two CPUs that print at once without caller ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from collectors.vmcore import frames
from collectors.vmcore.addresses import NEAR_NULL, classify, meaning, null_based
from collectors.vmcore.frames import Section
from collectors.vmcore.openings import ANY, OPENINGS, PANIC, REACH, Opening, follows
from collectors.vmcore.operand import decode
from wardround.models.vmcore import CrashContext, LogLine, Report, StackFrame

MOST_REPORTS = 200
MOST_LINES = 4000  # of one report: the tables of an OOM report are long
MOST_OTHERS = 32
# A report without an end mark is over when the kernel was silent this long, or wrote about something else.
SILENCE = 5.0

Access = Literal["read", "write", "execute", ""]
# Their stack passes no fault: what an interrupt interrupted has no part in them.
_NO_FAULT = frozenset(("oom", "hung_task", "sysrq", "requested"))
_SENT = "Sending NMI from CPU "
_CUT = "cut here ]---"
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_SECTION = re.compile(
    r"(?:NMI backtrace for cpu (?P<cpu>\d{1,5})|task:(?P<task>.{1,64}?)\s+state:(?P<state>\S+).*?pid:(?P<pid>\d{1,9})"
    r"|(?P<named>Allocated by task \d+|Freed by task \d+|Last potentially related work creation|Second to last).*"
    r"|(?P<owner>INFO: task .{1,80} is blocked on an? .*)"
    r"|(?P<panic>Kernel panic - not syncing).*)"
)
_BLOCKED_ON = re.compile(
    r"INFO: task (?P<comm>.{1,64}?):(?P<pid>\d{1,9})(?: <\w+>)? is blocked on an? "
    r"(?P<lock>mutex|rw-semaphore|rwsem|semaphore)"
    r"(?:.*?owned by (?:\w+ )?task (?P<owner>.{1,64}?):(?P<owner_pid>\d{1,9})\b)?"
)
_TRACK = re.compile(r"(Allocated|Freed) in (.+?) age=\d+")
_ACCESS = re.compile(
    r"#PF: (?:supervisor|user) (read|write|instruction fetch)|(?:WnR = (\d))|(Read|Write) of size \d+ at addr (\w+)"
)
_FORBIDDEN = re.compile(
    r"#PF: error_code\(0x[0-9a-f]+\) - (permissions violation)|to (read-only) memory|(NX-protected) page"
)
_STALLED = re.compile(r"rcu:\s+(\d{1,5})-[^\s:]{3,5}: \(")  # the CPU that an RCU stall is of
_CODE = re.compile(r"Code: .*?<([0-9a-f]{2})> ?((?:[0-9a-f]{2} ?)*)")
_KILLED = re.compile(r"Out of memory: Killed process (\d{1,9}) \((.{1,64}?)\)")
_WARNED = re.compile(r"WARNING: CPU: (?P<cpu>\d{1,5}) PID: (?P<pid>\d{1,9}) at ")
_WARNED_NEW = re.compile(r"WARNING: \S+ at .*, CPU#(?P<cpu>\d{1,5}): (?P<comm>.{1,64})/(?P<pid>\d{1,9})")
_OOPS = re.compile(r"\[#(\d{1,6})\]")


@dataclass(slots=True)
class _Open:
    """A report while its lines are gathered."""

    opening: Opening
    title: LogLine
    lines: list[LogLine]
    details: dict[str, str] = field(default_factory=dict)
    traced: bool = False
    ended: bool = False
    mixed: bool = False  # two CPUs printed at once
    panic: str = ""


def reports(lines: Sequence[LogLine]) -> tuple[Report, ...]:
    """Return the reports of a kernel log in order of time, at most the first and the last hundred."""
    found: list[_Open] = []
    for stream in _streams(lines):
        found += _segments(stream)
    found.sort(key=lambda one: one.title.time)
    if len(found) > MOST_REPORTS:
        half = MOST_REPORTS // 2
        found = found[:half] + found[-half:]
    joined = list(_joined(found))
    if joined and not any(one.panic for one in joined) and _cut_short(joined[-1]):
        joined[-1].panic = joined[-1].title.text
    return tuple(_report(one) for one in joined)


def _cut_short(last: _Open) -> bool:
    """Whether an oops is the log's end: a crash kernel that is loaded takes over before the oops ends or panic() says
    anything."""
    return not last.ended and any(_OOPS.search(line.text) for line in last.lines)


def panic_message(lines: Sequence[LogLine]) -> str:
    """The first panic line's message, or nothing."""
    return next((found[1] for line in lines if (found := PANIC.search(line.text))), "")


def _streams(lines: Sequence[LogLine]) -> Iterable[Sequence[LogLine]]:
    """The lines of each writer; without caller ids all are one's."""
    if not any(line.caller for line in lines):
        return (lines,)
    by_caller: dict[str, list[LogLine]] = {}
    asked, sent = "", {}  # CPUs that answer with their stack write for the one that asked
    for line in lines:
        if _SENT in line.text:
            asked = line.caller
        elif asked and "NMI backtrace for cpu" in line.text and line.caller != asked:
            sent[line.caller] = asked
        elif line.caller in sent and _opens(line.text) is not None:
            del sent[line.caller]
        by_caller.setdefault(sent.get(line.caller, line.caller), []).append(line)
    return by_caller.values()


def _segments(lines: Sequence[LogLine]) -> Iterator[_Open]:
    """Cut one writer's lines into reports."""
    current: _Open | None = None
    cut_off: _Open | None = None  # of another CPU that had only begun to print: lines of before come back to it
    before: list[LogLine] = []  # what stands before "cut here", which is where list checks say what is wrong
    for line in lines:
        if current is not None and line.time - current.lines[-1].time > SILENCE:
            yield current
            current = None
        opening = _opens(line.text)
        if opening is not None:
            opened, current = _admit(current, opening, line, before)
            if opened is not None:
                cut_off = opened if _unfinished(opened, line) else None
                yield opened
        elif cut_off is not None and current is not None and line.time < current.title.time:
            cut_off.lines.append(line)
        elif current is not None and _CUT in line.text and (current.ended or current.traced):
            yield current
            current = None
        elif current is not None and not _over(current, line):
            current.lines.append(line)
        before = [*before[-3:], line]
    if current is not None:
        yield current


def _unfinished(one: _Open, line: LogLine) -> bool:
    """Whether another CPU's report cut a lockup's off before the first frame of its trace."""
    lockup = one.opening.kind in ("soft_lockup", "hard_lockup") and line.time - one.title.time < 1.0
    return lockup and not any(frames.frame(held.text.strip()) for held in one.lines)


def _opens(text: str) -> Opening | None:
    if not ANY.search(text, 0, REACH):
        return None
    return next((opening for opening in OPENINGS if opening.pattern.search(text, 0, REACH)), None)


def _admit(current: _Open | None, opening: Opening, line: LogLine, before: list[LogLine]) -> tuple[_Open | None, _Open]:
    """Take an opening line into the open report, or close that and begin another: ``(closed, open)``."""
    panic = PANIC.search(line.text)
    if current is not None:
        if panic and follows(panic[1], current.opening.kind):
            current.panic, current.ended = current.panic or panic[1], True
            current.lines.append(line)
            return None, current
        fresh = opening.alone or current.ended or current.traced
        if opening == current.opening and _at_once(current, line):
            current.mixed = True
            current.details["also"] = ", ".join(filter(None, (current.details.get("also"), _who(opening, line))))
            return None, current
        if not fresh:
            if opening.rank > current.opening.rank:
                current.opening, current.title = opening, line
            _details(current, opening, line)
            current.lines.append(line)
            return None, current
    lead = [held for held in before[-2:] if line.time - held.time < 1.0] if current is None else []
    opened = _Open(opening, line, [*lead, line], panic=panic[1] if panic else "")
    _details(opened, opening, line)
    return current, opened


def _at_once(one: _Open, line: LogLine) -> bool:
    """Whether a second CPU reports the same before the first has printed its stack: their lines will be mixed."""
    lockup = one.opening.kind in ("soft_lockup", "hard_lockup")
    return lockup and not (one.traced or one.ended) and line.time - one.title.time < 1.0


def _who(opening: Opening, line: LogLine) -> str:
    found = opening.pattern.search(line.text, 0, REACH)
    groups = found.groupdict() if found else {}
    return f"{groups['comm']} (pid {groups['pid']})" if groups.get("comm") else f"CPU {groups.get('cpu')}"


def _details(one: _Open, opening: Opening, line: LogLine) -> None:
    found = opening.pattern.search(line.text, 0, REACH)
    for name, value in (found.groupdict() if found else {}).items():
        if value:
            one.details.setdefault(name.rstrip("_"), value)


def _over(one: _Open, line: LogLine) -> bool:
    """Note how far the report is; True when a line does not belong to it any more."""
    if line.text.startswith(("Call ", "Backtrace")):
        one.traced = True
    elif _END.search(line.text):
        one.ended = True
    return len(one.lines) >= MOST_LINES


def _joined(found: list[_Open]) -> Iterator[_Open]:
    """Give a panic line that only says that a report came before to that report; other writers may have printed it."""
    held: list[_Open] = []
    for one in found:
        if one.panic and one.opening.rank < 7 and one.title.text.startswith("Kernel panic"):
            causes = (c for c in reversed(held) if one.title.time - c.title.time < 120 and not c.panic)
            cause = next((c for c in causes if follows(one.panic, c.opening.kind)), None)
            if cause is not None:
                cause.panic = one.panic
                continue
        held.append(one)
    yield from held


def _report(one: _Open) -> Report:
    texts = [line.text.strip() for line in one.lines]
    if one.panic and not one.title.text.startswith("Kernel panic"):
        # the panic prints a stack of its own after the report's
        end = next((n for n, text in enumerate(texts) if PANIC.search(text)), len(texts))
        texts = texts[:end] if any(text.startswith("Call ") for text in texts[:end]) else texts
    section = frames.read(_main(texts))
    called = one.opening.kind in _NO_FAULT or one.title.text.startswith("Kernel panic")
    if called and section.rip is None:
        section.stack = [replace(frame, exception=False) for frame in section.stack]
    if one.mixed:
        section.stack = list(dict.fromkeys(section.stack))
    details = dict(one.details)
    _more_details(details, texts, section)
    context = _context(one, details, section, texts)
    where = _where(one, details, section) or (_panic_caller(section.stack) if called else None)
    for pattern in (_WARNED, _WARNED_NEW):
        if found := pattern.search(one.title.text):
            details = {**found.groupdict(), **details}
    pid = details.pop("pid", None)
    cpu = details.pop("cpu", None)
    if one.opening.kind == "rcu_stall" and cpu is not None and section.cpu not in (None, int(cpu)):
        section = Section()  # of the CPU that noticed it
    return Report(
        kind=_kind(one.opening.kind, context, texts),
        title=one.title.text,
        time=one.title.time,
        function=where.function if where else "",
        module=where.module if where else "",
        cpu=int(cpu) if cpu is not None else section.cpu,
        pid=int(pid) if pid is not None else section.pid,
        comm=details.pop("comm", "") or section.comm,
        tainted=section.tainted,
        hardware=section.hardware,
        stack=section.frames,
        context=context,
        details=tuple(details.items()),
        others=tuple(_others(texts)),
        fatal=bool(one.panic),
    )


def _panic_caller(stack: Sequence[StackFrame]) -> StackFrame | None:
    """Who called panic(): the first sure frame behind it."""
    at = max((n for n, frame in enumerate(stack) if frame.function in ("panic", "vpanic", "nmi_panic")), default=None)
    return next((frame for frame in stack[at + 1 :] if frame.sure), None) if at is not None else None


def _main(texts: list[str]) -> Iterator[str]:
    """The lines of the report's own context: another CPU's or a named stack begins the others'."""
    traced = False
    for number, text in enumerate(texts):
        traced = traced or text.startswith("Call ")
        found = _SECTION.match(text)
        if found and number and not found["panic"] and (traced or found["named"]):
            return
        yield text


def _others(texts: list[str]) -> Iterator[tuple[str, tuple[StackFrame, ...]]]:
    """Stacks shown beside the report's own, by what they are of."""
    starts = [(n, found) for n, text in enumerate(texts) if (found := _SECTION.match(text)) and not found["panic"]]
    ends = [*(n for n, _ in starts[1:]), len(texts)]
    for (start, found), end in list(zip(starts, ends, strict=False))[:MOST_OTHERS]:
        if found["owner"]:
            continue
        body = texts[start + 1 : end]
        if found["named"]:
            stack = tuple(one for text in body if (one := frames.frame(text)) is not None)
        else:
            stack = frames.read(body).frames
        name = f"cpu {found['cpu']}" if found["cpu"] else found["named"] or f"{found['task']}:{found['pid']}"
        if stack:
            yield name, stack[: frames.MOST_FRAMES]


def _more_details(details: dict[str, str], texts: list[str], section: Section) -> None:
    """What else a report names: owners of locks, who allocated and freed, what was killed, the work item."""
    if section.work:
        details["work"] = section.work
        details["work_module"] = section.work_module
    for text in texts:
        if "blocked on a" in text and (found := _BLOCKED_ON.search(text)):
            details["lock"] = found["lock"]
            if found["owner"]:
                details["owner"], details["owner_pid"] = found["owner"], found["owner_pid"]
        elif " age=" in text and (found := _TRACK.match(text)):
            details.setdefault(f"{found[1].lower()}_in", found[2])
        elif found := _KILLED.match(text):
            details["killed_pid"], details["killed"] = found[1], found[2]
        elif found := _FORBIDDEN.search(text):
            details.setdefault("forbidden", next(filter(None, found.groups())))
        elif "rcu:" in text and (found := _STALLED.search(text)):
            details.setdefault("cpu", found[1])
        elif found := _OOPS.search(text):
            details.setdefault("oops", found[1])
    for name, stack in _others(texts):
        for word, key in (("Allocated by", "allocated_in"), ("Freed by", "freed_in")):
            if name.startswith(word):
                told = (
                    one.name for one in stack if not one.function.startswith(("kasan_", "__kasan_", "kfree", "kmem"))
                )
                details.setdefault(key, " < ".join(list(told)[:6]))


def _kind(kind: str, context: CrashContext | None, texts: Sequence[str]) -> str:
    """Tell a null pointer from other bad ones by the address, which newer kernels leave to the reader."""
    if kind != "bad_pointer" or context is None or context.address is None:
        return kind
    near = context.address < NEAR_NULL
    less = null_based(context.address, _base(texts, context.registers, context.address))
    return "null_pointer" if near or less else kind


def _base(texts: Sequence[str], registers: Mapping[str, int], address: int) -> int | None:
    """What the register held that the faulting address was formed from, by the instruction that the kernel printed.

    Where it could print none: an error code would still stand in a register, so one of them is it, or it was null.
    """
    code = next((text for text in texts if text.startswith("Code: ")), "")  # the first is the fault's own
    found = _CODE.match(code)
    operand = decode(bytes.fromhex(found[1] + found[2])) if found else None
    if operand is not None and operand.address(registers) == address:
        return operand.pointer(registers)
    held = [value for name, value in registers.items() if name[0] == "R" and name != "RSP"]
    codes = [value for value in held if classify(value) == "error"]
    if found or classify(address) != "error" or len(codes) > 1:
        return None
    return codes[0] if codes else 0 if 0 in held else None


def _where(one: _Open, details: dict[str, str], section: Section) -> StackFrame | None:
    """The function a report accuses itself: named in its title, else that of the fault."""
    if named := details.pop("in", ""):
        return frames.symbol(named) or StackFrame(named.split()[0].partition("+")[0][:128])
    if section.rip is not None:
        return section.rip
    return next((frame for frame in section.frames if frame.exception), None)


def _context(one: _Open, details: dict[str, str], section: Section, texts: list[str]) -> CrashContext | None:
    """Registers and the address of a fault. Lockups have registers, but nothing they could not access."""
    if not section.registers and "address" not in details:
        return None
    registers = dict(section.registers)
    if section.bad_rip is not None:
        registers["RIP"] = section.bad_rip
    address: int | None = None
    if "address" in details:
        address = int(details.pop("address"), 16)
    elif section.bad_rip is not None and one.opening.kind in ("general_protection", "unknown"):
        address = section.bad_rip
    access = _access(texts, section, address)
    told = meaning(address, _base(texts, registers, address)) if address is not None else ""
    if address is None and one.opening.kind == "general_protection":
        told = _poisoned(registers)
    return CrashContext(
        registers=registers,
        function=section.rip.function if section.rip else "",
        module=section.rip.module if section.rip else "",
        address=address,
        meaning=told,
        access=access,
        repaired=False,
    )


def _access(texts: list[str], section: Section, address: int | None) -> Access:
    if section.bad_rip is not None and section.bad_rip == address:
        return "execute"
    for text in texts:
        if found := _ACCESS.search(text):
            if found[1]:
                return "execute" if found[1].startswith("instr") else "write" if found[1] == "write" else "read"
            return "write" if found[2] == "1" or found[3] == "Write" else "read"
    return ""


def _poisoned(registers: dict[str, int]) -> str:
    """A general protection fault names no address on older kernels: a register that holds poison tells it."""
    for name, value in registers.items():
        if classify(value) in ("freed", "poison"):
            return f"{name} holds {meaning(value)}"
    return ""
