"""Stacks of a dump as frames with function, offset and module.

Source: drgn's unwinder, which reads the kernel's ORC tables out of the dump. A frame whose address is no code ends the
stack: what an unwinder finds behind it may look plausible and is garbage. One such case is repaired: a call through a
bad pointer left the caller's address on top of the stack, from which the rest is unwound again.
It cannot show functions that were inlined or that called another one last (their frame is gone): an absent frame proves
nothing. File, line and local variables need debug information.
Measured cost: 0.15 ms a stack; functions are looked up once per address.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Architecture, FaultError, Object, StackTrace
from drgn import StackFrame as DrgnFrame

from collectors.vmcore.modules import AddressMap, address_map
from collectors.vmcore.open import DAMAGE, Dump
from wardround.models.vmcore import StackFrame
from wardround.text import clean

MOST_FRAMES = 256
MOST_VARIABLES = 24
VARIABLE = 200
KERNEL_HALF = 1 << 63


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack. `fault` is the index of the innermost frame that an exception or interrupt interrupted (None: none
    did), `registers` its registers by the kernel's names; `entry` the function that took the exception. `repaired`
    where the frames behind a call through a bad pointer were found again."""

    frames: tuple[StackFrame, ...] = ()
    fault: int | None = None
    registers: tuple[tuple[str, int], ...] = ()
    entry: str = ""
    repaired: bool = False


class Unwinder:
    """Unwinds the stacks of one dump."""

    def __init__(self, dump: Dump, addresses: AddressMap) -> None:
        self.dump, self.addresses = dump, addresses
        self._known: dict[tuple[int, bool, str], StackFrame] = {}
        self._detailed = dump.tier in ("modules", "debuginfo")

    def stack(self, of: Object, variables: bool = False, at_fault: bool = False) -> Stack:
        """Unwind the stack of a `struct task_struct *` or from a `struct pt_regs`.

        `at_fault` where the registers that the dump noted are those of the fault itself.

        :raises ValueError, FaultError, LookupError: the task's stack cannot be read at all
        """
        return self._frames(self.dump.prog.stack_trace(of), variables, repair=True, at_fault=at_fault)

    def _frames(self, trace: StackTrace, variables: bool, repair: bool, at_fault: bool = False) -> Stack:
        frames: list[StackFrame] = []
        fault: int | None = None
        registers: dict[str, int] = {}
        entry, repaired = "", False
        for number, raw in enumerate(trace):
            try:
                pc = raw.pc
            except LookupError:
                break
            faulted = raw.interrupted and (number > 0 or at_fault)
            interrupted = faulted or (raw.interrupted and not repair)
            if len(frames) >= MOST_FRAMES or (raw.interrupted and _left_kernel(raw, pc)):
                break
            held = self._registers(raw) if interrupted else {}
            if faulted and fault is None:
                fault, registers, entry = len(frames), held, frames[-1].function if frames else ""
            if self.addresses.is_code(pc):
                frames.append(self._frame(raw, pc, faulted, variables))
                continue
            if faulted and repair:
                behind = self._behind_bad_call(held, variables)
                repaired = bool(behind)
                frames += behind or (StackFrame(f"{pc:#x}", address=pc, exception=True, sure=False),)
            elif pc >= KERNEL_HALF or not frames:
                frames.append(StackFrame(f"{pc:#x}", address=pc, sure=False))
            break
        return Stack(tuple(frames[:MOST_FRAMES]), fault, tuple(registers.items()), entry, repaired)

    def _frame(self, raw: DrgnFrame, pc: int, exception: bool, variables: bool) -> StackFrame:
        name = raw.name if self._detailed else ""
        key = (pc, raw.interrupted, name or "")
        made = self._known.get(key)
        if made is None or made.exception != exception:
            made = self._known[key] = self._described(raw, pc, exception, name or "")
        if not (variables and self._detailed):
            return made
        return StackFrame(
            made.function, made.offset, made.address, made.module, made.file, made.line, exception, True, _locals(raw)
        )

    def _described(self, raw: DrgnFrame, pc: int, exception: bool, name: str) -> StackFrame:
        offset = 0
        try:
            symbol = raw.symbol()
        except LookupError:
            name = name or f"{pc:#x}"
        else:
            name, offset = name or symbol.name, pc - symbol.address
        file, line = "", None
        if self._detailed:
            try:
                place = raw.source()
            except LookupError:
                pass
            else:
                file, line = clean(place[0], 256), place[1] or None
        return StackFrame(
            clean(name, 256), offset, pc, self.addresses.module(pc), file=file, line=line, exception=exception
        )

    def _registers(self, raw: DrgnFrame) -> dict[str, int]:
        """Registers by the names that the kernel prints."""
        return {_printed(name): value for name, value in raw.registers().items()}

    def _behind_bad_call(self, registers: dict[str, int], variables: bool) -> tuple[StackFrame, ...]:
        """Unwind from the caller of a function that is none: the call pushed the address to return to."""
        platform = self.dump.prog.platform
        if platform is None or platform.arch != Architecture.X86_64 or "RSP" not in registers:
            return ()
        prog, sp = self.dump.prog, registers["RSP"]
        try:
            back = prog.read_u64(sp)
            if not self.addresses.is_code(back) or not _follows_call(prog.read(back - 7, 7)):
                return ()
            # One byte back is inside the call, which is where the caller stood.
            values = {member: registers[name] for member, name in _PT_REGS.items() if name in registers}
            saved = Object(prog, "struct pt_regs", value={**values, "ip": back - 1, "sp": sp + 8})
            found = self._frames(prog.stack_trace(saved), variables, repair=False).frames
        except DAMAGE:
            return ()
        if not found:
            return ()
        first = found[0]
        caller = StackFrame(
            first.function, first.offset + 1, back, first.module, first.file, first.line, True, True, first.variables
        )
        return (caller, *found[1:])


def unwinder(dump: Dump) -> Unwinder:
    """Return a dump's unwinder, made once: it keeps the frames it has described."""
    if "wardround_unwinder" not in dump.prog.cache:
        addresses = address_map(dump)
        _cover_initialisation(dump, addresses)
        dump.prog.cache["wardround_unwinder"] = Unwinder(dump, addresses)
    made: Unwinder = dump.prog.cache["wardround_unwinder"]
    return made


def _cover_initialisation(dump: Dump, addresses: AddressMap) -> None:
    """Let drgn unwind through modules that are still being initialised: it leaves that code out of their ranges."""
    code: dict[str, list[tuple[int, int]]] = {}
    for region in addresses.regions:
        if region.module and region.part == "code":
            code.setdefault(region.module, []).append((region.start, region.end))
    for module in dump.prog.modules():
        known = list(module.address_ranges or ())
        more = [(start, end) for start, end in code.get(module.name, ()) if not any(a <= start < b for a, b in known)]
        if known and more:
            module.address_ranges = [*known, *more]


# Members of x86-64's struct pt_regs that the unwinder may need again, and the registers they save
_PT_REGS = {
    "bx": "RBX", "bp": "RBP", "r12": "R12", "r13": "R13", "r14": "R14", "r15": "R15", "ax": "RAX", "cx": "RCX",
    "dx": "RDX", "si": "RSI", "di": "RDI", "r8": "R08", "r9": "R09", "r10": "R10", "r11": "R11", "flags": "EFLAGS",
    "cs": "CS", "ss": "SS",
}  # fmt: skip


def _printed(name: str) -> str:
    if name in ("r8", "r9"):
        return f"R0{name[1]}"
    return {"rflags": "EFLAGS"}.get(name, name.upper() if not name.startswith("x") else name)


def _left_kernel(raw: DrgnFrame, pc: int) -> bool:
    """Whether an interrupted frame is of user space; asks for single registers, as every process's stack ends so."""
    held: dict[str, int] = {}
    for name in ("cs", "rsp", "sp"):
        try:
            held[name.upper()] = raw.register(name)
        except (LookupError, ValueError):
            continue
        break
    return _in_user_space(held, pc)


def _in_user_space(registers: dict[str, int], pc: int) -> bool:
    if "CS" in registers:
        return bool(registers["CS"] & 3)
    return pc < KERNEL_HALF and registers.get("RSP", registers.get("SP", 0)) < KERNEL_HALF


def _follows_call(before: bytes) -> bool:
    """Whether the seven bytes before an address end in a call: direct (e8), or through a register or memory (ff /2)."""
    if before[2] == 0xE8:
        return True
    calls = (before[at:] for at in range(6) if before[at] == 0xFF and before[at + 1] >> 3 & 7 == 2)
    return any(len(call) == _call_size(call) for call in calls)


def _call_size(call: bytes) -> int:
    """The length of an indirect call by its ModRM byte: with an index byte, with a displacement of one or four."""
    mode, low = call[1] >> 6, call[1] & 7
    if mode == 3:
        return 2
    index = low == 4
    wide = mode == 2 or (mode == 0 and (low == 5 or (index and len(call) > 2 and call[2] & 7 == 5)))
    return 2 + index + (4 if wide else mode)


def _locals(raw: DrgnFrame) -> tuple[tuple[str, str], ...]:
    """Parameters and local variables that the compiler kept, as short text."""
    found: list[tuple[str, str]] = []
    for name in raw.locals()[:MOST_VARIABLES]:
        try:
            value = raw[name]
            if not value.absent_:
                found.append((name, clean(value.format_(dereference=False, symbolize=True), VARIABLE)))
        except (KeyError, FaultError, *DAMAGE):
            continue
    return tuple(found)
