"""How a crash ended: message, task and CPU, class, the stack that led there, and what the faulting registers mean.

Source: the CPU that panicked and its task, that task's stack, `tainted_mask`; the faulting address from the log's own
words where they are there, else out of the instruction and the registers it was executed with. The dump's note of a
CPU's registers is of the panic's last loop: those of the fault lie in the stack, where the exception saved them; only
a crash kernel that the oops itself started finds them in the note.
It cannot know the first report where the log lost it: the class is then told by the stack (`crashkind`).
Measured cost: 5 ms, and 1 ms for every register that is looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from drgn import Object

from collectors.vmcore import taint
from collectors.vmcore.addresses import classify, null_based
from collectors.vmcore.crashkind import PAUSING, kind_of, panic_caller
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.operand import Access, Operand, decode
from collectors.vmcore.pointer import Pointers
from collectors.vmcore.stacks import Stack, unwinder
from collectors.vmcore.tasks import cpus
from collectors.vmcore.words import words
from wardround.models.vmcore import Certainty, CrashContext, LogLine, Panic, StackFrame, plain

_INSTRUCTION = 15
_MOST_FREED = 3
# Their stack passes no fault: what an interrupt or a user's page fault interrupted has no part in them.
_NO_FAULT = frozenset(("oom", "hung_task", "sysrq", "requested", "stack_protector", "rcu_stall", "unknown"))
_ACCESSES = frozenset(("null_pointer", "bad_pointer", "general_protection", "stack_overflow", "double_fault"))
# Where a register that points to a freed object may be the cause, and not only what was left in it.
_FREED = frozenset(
    ("bad_pointer", "general_protection", "list_corruption", "refcount", "slab_corruption", "use_after_free")
)
_PLAIN = ("kernel", "error", "null")  # addresses that no freed object held as poison
# In one of them a CPU stands that ended the kernel; where it is in none of them its registers are those of the fault.
_ENDING = frozenset(
    (
        "panic", "vpanic", "nmi_panic", "crash_kexec", "__crash_kexec", "machine_kexec", "crash_setup_regs",
        "oops_end", "die", "__die", "machine_crash_shutdown", "native_machine_crash_shutdown",
    )
)  # fmt: skip
_REPEATED = 3  # times a function must stand in a stack to be the recursion that filled it
_PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
# Lines that say how it ended where there was no panic() (crash kernels start from the oops itself), best first.
_INSTEAD = (
    re.compile(r"(BUG: (?:kernel NULL pointer|unable to handle).*|Unable to handle kernel .*)"),
    re.compile(r"([Kk]ernel BUG at .*)"),
    re.compile(r"((?:general protection fault|Oops: |Internal error: ).*)"),
)
_ADDRESS = re.compile(
    r"(?:NULL pointer dereference, address|handle page fault for address|handle kernel .* at virtual address|"
    r"for non-canonical address|maybe for address):? (?:0x)?([0-9a-f]{1,16})"
)
_CR2 = re.compile(r"\bCR2: ([0-9a-f]{16})")
_ACCESS = re.compile(r"#PF: (?:supervisor|user) (read|write|instruction fetch)")


def read_panic(dump: Dump, report_kind: str | None = None, log: Sequence[LogLine] = ()) -> Panic | None:
    """Return how it ended, or None where the kernel had not panicked when the dump was made.

    `report_kind` is the class of the log's fatal report where one is known: it is believed before the stack.

    :raises FaultError, LookupError, ValueError: the panicking CPU cannot be read
    """
    found = _panicking(dump)
    if found is None:
        return None
    cpu, task = found
    stack = _stack(dump, cpu, task)
    return _Reader(dump, unwinder(dump).addresses, log).panic(cpu, task, stack, report_kind)


def _panicking(dump: Dump) -> tuple[int, int] | None:
    """Return (CPU, address of its task) of the panic. A crash kernel's dump may know only the CPU that crashed."""
    number, known = -1, False
    for name in ("panic_cpu", "crashing_cpu"):
        try:
            value = dump.prog[name]
            number = int(value.counter.value_() if name == "panic_cpu" else value.value_())
        except KeyError:
            continue
        known = True
        if number >= 0:
            break
    if not known:
        raise LookupError("which CPU panicked cannot be told: the dump's symbols are missing")
    if number < 0:
        return None
    task = next((cpu.current for cpu in cpus(dump) if cpu.number == number), 0)
    if not task:
        raise LookupError(f"CPU {number} panicked, but its task cannot be read")
    return number, task


def _stack(dump: Dump, cpu: int, task: int) -> Stack:
    """Unwind the panicking task with the registers that the dump noted for its CPU.

    A crash kernel that is started by the oops itself, not by panic(), leaves those of the fault.
    """
    of = Object(dump.prog, "struct task_struct *", value=task)
    try:
        stack = unwinder(dump).stack(of, variables=True)
        before = stack.frames[: stack.fault]
        paused = bool(stack.frames) and stack.frames[0].function.startswith(PAUSING)
        if len(stack.frames) < 2 or paused or any(plain(frame.function) in _ENDING for frame in before):
            return stack  # a single frame is where a stack that cannot be read breaks off
        return unwinder(dump).stack(of, variables=True, at_fault=True)
    except DAMAGE as error:
        dump.lost["the crash's stack"] = f"that of CPU {cpu} cannot be unwound ({error})"
        return Stack()


class _Reader:
    def __init__(self, dump: Dump, addresses: AddressMap, log: Sequence[LogLine]) -> None:
        self.dump, self.addresses = dump, addresses
        self.texts = [line.text for line in log]

    def panic(self, cpu: int, task: int, stack: Stack, report_kind: str | None) -> Panic:
        registers = dict(stack.registers)
        code = self._code(stack)
        operand = decode(code) if code else None
        address, access = self._accessed(stack, registers, operand)
        shown, at = kind_of(stack.frames, stack.fault, address, code)
        kind = shown
        certainty: Certainty = "derived"
        if report_kind is not None and report_kind != "unknown":
            kind, certainty = report_kind, "read"
        if kind == "bad_pointer" and operand is not None and operand.address(registers) == address:
            kind = "null_pointer" if null_based(address, operand.pointer(registers)) else kind
        frames, context = stack.frames, None
        if kind in _NO_FAULT:
            frames = tuple(replace(frame, exception=False) if frame.exception else frame for frame in frames)
        elif stack.fault is not None:
            if kind not in _ACCESSES:
                address, access = None, ""
            context = self._context(stack, registers, address, access, operand)
            if kind in _FREED and (address is None or classify(address) not in _PLAIN):
                context = self._with_freed(context)
        where = self._where(kind, at if kind == shown else None, stack)
        return Panic(
            message=self._message(),
            kind=kind,
            cpu=cpu,
            task=task,
            function=plain(where.function) if where else "",
            module=where.module if where else "",
            tainted=self._tainted(),
            stack=frames,
            context=context,
            certainty=certainty,
        )

    def _code(self, stack: Stack) -> bytes:
        """The instruction that was interrupted; empty where there is none, as after a call through a bad pointer."""
        rip = dict(stack.registers).get("RIP")
        if rip is None or stack.repaired:
            return b""
        try:
            return words(self.dump.prog).read(rip, _INSTRUCTION)
        except DAMAGE:
            return b""

    def _accessed(self, stack: Stack, registers: dict[str, int], operand: Operand | None) -> tuple[int | None, Access]:
        """Return (address that could not be accessed, how): the log's word on it, else the instruction's."""
        rip = registers.get("RIP")
        if stack.fault is None or rip is None:
            return None, ""
        if not self.addresses.is_code(rip):
            return rip, "execute"
        double = "double_fault" in stack.entry  # the processor says no address then, but CR2 still holds it
        address = None if double else self._logged(_ADDRESS)
        if address is None and (double or "page_fault" in stack.entry):
            address = self._logged(_CR2)
        if address is None and operand is not None:
            address = operand.address(registers)
        access: Access = operand.access if operand is not None else ""
        for text in reversed(self.texts):
            if "page_fault" in stack.entry and (found := _ACCESS.search(text)):
                access = "write" if found[1] == "write" else "read" if found[1] == "read" else "execute"
                break
        return address, access

    def _logged(self, pattern: re.Pattern[str]) -> int | None:
        found = (pattern.search(text) for text in reversed(self.texts))
        return next((int(match[1], 16) for match in found if match), None)

    def _context(
        self, stack: Stack, registers: dict[str, int], address: int | None, access: Access, operand: Operand | None
    ) -> CrashContext:
        frame = stack.frames[stack.fault or 0]
        pointers = Pointers(self.dump, self.addresses)
        formed = operand is not None and operand.address(registers) == address
        base = operand.pointer(registers) if operand is not None and formed else None
        told = [pointers.explain(address, base)] if address is not None else []
        if address is not None and operand is not None and formed:
            told.append(_through(operand, registers))
        if access == "execute" and not stack.repaired and self._returned(registers):
            told.append("nothing called it: most likely a return address on the stack was overwritten")
        if stack.repaired and not frame.module:
            told += self._of_modules(registers, pointers)
        known = self.addresses.is_code(frame.address or 0)
        return CrashContext(
            registers=registers
            if address is None or "page_fault" not in stack.entry
            else {**registers, "CR2": address},
            function=frame.function if known else "",
            module=frame.module,
            address=address,
            meaning="; ".join(one for one in told if one),
            access=access,
            repaired=stack.repaired,
        )

    def _of_modules(self, registers: dict[str, int], pointers: Pointers) -> list[str]:
        """What of modules the registers still point to: whose callback the kernel's code was about to run."""
        held: dict[int, list[str]] = {}
        for name, value in registers.items():
            if self.addresses.module(value):
                held.setdefault(value, []).append(name)
        return [
            f"{' and '.join(names)} hold{'s' * (len(names) == 1)} {pointers.explain(value)}"
            for value, names in held.items()
        ]

    def _returned(self, registers: dict[str, int]) -> bool:
        """Whether a return led to what is no code: after a call the caller's address is on top of the stack."""
        try:
            top = words(self.dump.prog).u64(registers.get("RSP", 0))
        except (OverflowError, *DAMAGE):
            return False
        return not self.addresses.is_code(top)

    def _with_freed(self, context: CrashContext) -> CrashContext:
        """Add which registers point to freed objects."""
        found = islice(Pointers(self.dump, self.addresses).freed(context.registers), _MOST_FREED)
        told = [f"{name} points to {what}" for name, what in found]
        return replace(context, meaning="; ".join(one for one in (context.meaning, *told) if one))

    def _where(self, kind: str, at: int | None, stack: Stack) -> StackFrame | None:
        """The function the report is about: of the fault, the recursion, the caller of panic() or of a check.

        `at` is the frame that shows the class, None where only the log tells it."""
        frames = stack.frames
        if kind in ("hung_task", "oom", "rcu_stall", "hard_lockup"):
            return None  # the panicking task only noticed it
        if kind == "stack_protector":
            return frames[at + 1] if at is not None and at + 1 < len(frames) else None
        if kind in ("stack_overflow", "double_fault") and stack.fault is not None:
            (name, count), *_ = Counter(frame.function for frame in frames[stack.fault :]).most_common(1)
            if count >= _REPEATED:
                return next(frame for frame in frames if frame.function == name)
        if kind == "sysrq":
            return frames[at] if at is not None else None
        if kind == "requested" or (kind == "unknown" and stack.fault is None):
            caller = panic_caller(frames)
            return frames[caller] if caller is not None else None
        if stack.fault is None:
            return None
        behind = frames[stack.fault :]
        if kind in ("list_corruption", "refcount"):
            behind = behind[1:] or behind  # the check itself found it
        return behind[0] if behind and behind[0].sure else None

    def _message(self) -> str:
        for pattern in (_PANIC, *_INSTEAD):
            for text in self.texts:
                if found := pattern.search(text):
                    return found[1]
        return ""

    def _tainted(self) -> str:
        try:
            return taint.kernel_letters(self.dump.prog["tainted_mask"].value_())
        except (KeyError, *DAMAGE):
            return ""


def _through(operand: Operand, registers: dict[str, int]) -> str:
    """Say how the instruction formed its address, and which register was the bad one."""
    if not operand.base or operand.base == "RSP":
        return ""
    value = registers.get(operand.base, 0)
    if not operand.index and not operand.offset:
        return f"the pointer was in {operand.base}"
    bad = classify(value) != "kernel"
    return f"{operand} with {operand.base} {value:#x}" + (" as the pointer" if bad else "")
