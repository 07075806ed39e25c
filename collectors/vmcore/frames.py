"""Registers and call traces as the kernel prints them: x86-64, arm64, and the like shapes of riscv and powerpc.

Input is a report's lines without their leads. What a trace cannot tell: frames of inlined and of tail-calling
functions are absent; frames with a question mark were only found on the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from wardround.models.vmcore import StackFrame

MOST_FRAMES = 256
_NAME = r"[A-Za-z_$][\w.$]{0,255}"
# A symbol with its offset and size: name+0x1a/0x30, with the module's name (and build id) in brackets.
SYMBOL = re.compile(
    rf"(?P<name>{_NAME})\+(?P<offset>0x[0-9a-f]{{1,16}})(?:/0x[0-9a-f]{{1,16}})?"
    r"(?: \[(?P<module>[\w-]{1,64})(?: [0-9a-f]{8,64})?\])?"
)
_FRAME = re.compile(
    r"(?:\[[0-9a-f]{16}\] )?(?:\[[<]?[0-9a-f]{8,16}[>]?\] )?(?:\[<[0-9a-f]{8,16}>\] )?(?P<unsure>\? )?"
    rf"{SYMBOL.pattern}(?P<tail>(?: \([A-Za-z]{{1,12}}\))*)"
)
# scripts/decode_stacktrace.sh: name (file.c:12 (discriminator 3)) module
_DECODED = re.compile(
    rf"(?P<unsure>\? )?(?P<name>{_NAME}) \((?P<file>[\w./+-]{{1,255}}):(?P<line>\d{{1,7}})"
    r"(?: \(discriminator \d{1,4}\))?\)(?: (?P<module>[\w-]{1,64}))?"
)
_TRACE = re.compile(r"(?:Call [Tt]race|Backtrace):?(?:\s*\(.*\))?\s*")
_MARK = re.compile(r"</?(?:TASK|IRQ|NMI|SOFTIRQ|#?\w{2,12}|ENTRY_TRAMPOLINE)>")
_RIP = re.compile(r"(?:RIP: (?P<cs>[0-9a-f]{4}):|pc : |epc : |NIP \[[0-9a-f]+\] |PC is at |IP: )(?P<at>.*)")
_LR = re.compile(r"(?:lr : |ra : |LR \[[0-9a-f]+\] |LR is at )(?P<at>.*)")
_REGISTER = re.compile(
    r"\b(R[A-D]X|R[SD]I|R[BS]P|R\d\d|CR[0-4]|x\d{1,2}|sp|EFLAGS)\s?: (?:[0-9a-f]{4}:)?(?:0x)?([0-9a-f]{8,16})\b"
)
_CPU = re.compile(
    r"CPU: (?P<cpu>\d{1,5}) (?:UID: \d{1,10} )?PID: (?P<pid>\d{1,9})(?:/\d+)? ?Comm: (?P<comm>.{1,64}?)"
    r"(?: Kdump: loaded)? (?P<taint>Not tainted|Tainted: [A-Z -]+?) *(?P<release>\d+\.\S{1,128})(?: .*)?"
)
_CPU_OLD = re.compile(
    r"Pid: (?P<pid>\d{1,9}), comm: (?P<comm>\S{1,64})"
    r" (?P<taint>Not tainted|Tainted: [A-Z -]+?) *(?P<release>\d\S{1,128}).*"
)
_HARDWARE = re.compile(r"Hardware name: (.{1,200})")
_WORK = re.compile(rf"Workqueue: (\S+) (?P<work>{_NAME})(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<module>[\w-]+)\])?.*")
_MODULES = re.compile(r"Modules linked in:(.*)")
_ONE_MODULE = re.compile(r"([\w-]{1,64})(?:\(([A-Z+-]{1,16})\))?")


@dataclass(slots=True)
class Section:
    """What one CPU or task showed: registers of its fault, then its stack, innermost frame first."""

    registers: dict[str, int] = field(default_factory=dict)
    rip: StackFrame | None = None
    bad_rip: int | None = None  # code that no symbol covers: a call through a bad pointer
    link: StackFrame | None = None
    stack: list[StackFrame] = field(default_factory=list)
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    tainted: str = ""
    release: str = ""
    hardware: str = ""
    work: str = ""
    work_module: str = ""

    @property
    def frames(self) -> tuple[StackFrame, ...]:
        """The stack with the function of the fault in front where the trace does not itself start there."""
        if any(frame.exception for frame in self.stack):
            return tuple(self.stack)
        front: list[StackFrame] = [self.rip] if self.rip else []
        rest = self.stack
        if front and rest and rest[0].function == front[0].function and rest[0].offset == front[0].offset:
            rest = rest[1:]  # arm64 repeats it
        return (*front, *rest)


def frame(text: str) -> StackFrame | None:
    """Read one line of a trace, or None."""
    if found := _FRAME.fullmatch(text):
        return StackFrame(
            function=found["name"],
            offset=int(found["offset"], 16),
            module=found["module"] or "",
            sure=not found["unsure"] and "unreliable" not in found["tail"],
        )
    if found := _DECODED.fullmatch(text):
        return StackFrame(
            function=found["name"],
            module=found["module"] or "",
            file=found["file"],
            line=int(found["line"]),
            sure=not found["unsure"],
        )
    return None


def symbol(text: str) -> StackFrame | None:
    """Find the first symbol with an offset in a text."""
    found = SYMBOL.search(text)
    return StackFrame(found["name"], int(found["offset"], 16), module=found["module"] or "") if found else None


def read(lines: Iterable[str]) -> Section:
    """Read the first context of a report: CPU and task, registers, stack. Stops where user space or another begins."""
    section = Section()
    traces = 0
    inside = False
    for text in lines:
        if _TRACE.fullmatch(text):
            traces += 1
            if traces > 1 and section.stack:
                break  # a second trace belongs to somebody else (the panic, another task)
            inside = True
            continue
        if text.startswith("---[ end"):
            break
        found = _RIP.match(text)
        if found and found["cs"] and int(found["cs"], 16) & 3:
            if inside:
                break  # user space called from here
            continue
        if found:
            _fault(section, found["at"], inside)
        elif inside and (one := frame(text)) is not None:
            if len(section.stack) < MOST_FRAMES:
                section.stack.append(one)
        elif inside and _MARK.fullmatch(text):
            continue
        else:
            _describe(section, text)
    return section


def _fault(section: Section, at: str, inside: bool) -> None:
    """The instruction of a fault; inside a trace it starts the interrupted context's frames."""
    one = symbol(at) or frame(at)
    if one is not None:
        marked = StackFrame(one.function, one.offset, module=one.module, file=one.file, line=one.line, exception=True)
        if inside:
            if not any(f.exception for f in section.stack) and section.rip is None:
                section.stack.append(marked)
        elif section.rip is None:
            section.rip = marked
    elif section.rip is None and section.bad_rip is None and (number := re.match(r"0x([0-9a-f]{1,16})", at)):
        section.bad_rip = int(number[1], 16)


def _describe(section: Section, text: str) -> None:
    if section.pid is None and (found := _CPU.search(text)):
        section.cpu, section.pid, section.comm = int(found["cpu"]), int(found["pid"]), found["comm"]
        section.tainted = "" if found["taint"] == "Not tainted" else "".join(filter(str.isalpha, found["taint"][9:]))
        section.release = found["release"]
    elif section.pid is None and (found := _CPU_OLD.match(text)):
        section.pid, section.comm, section.release = int(found["pid"]), found["comm"], found["release"]
        section.tainted = "" if found["taint"] == "Not tainted" else "".join(found["taint"][9:].split())
    elif not section.hardware and (found := _HARDWARE.match(text)):
        section.hardware = found[1]
    elif not section.work and (found := _WORK.match(text)):
        section.work, section.work_module = found["work"], found["module"] or ""
    elif section.link is None and (found := _LR.match(text)):
        section.link = symbol(found["at"])
    for name, value in _REGISTER.findall(text):
        section.registers.setdefault(name, int(value, 16))


def modules(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names and taint letters of the last "Modules linked in" line."""
    last = ""
    for text in lines:
        if found := _MODULES.match(text):
            last = found[1]
    for found in _ONE_MODULE.finditer(last.partition("[last unloaded")[0]):
        yield found[1], (found[2] or "").strip("+-")
