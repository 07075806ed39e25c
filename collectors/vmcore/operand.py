"""Which memory an x86-64 instruction accesses, and how: enough of the encoding to explain a fault.

It knows the integer instructions that compilers emit for loads, stores, calls and locked updates, and string moves.
It cannot tell per-CPU operands (their base is no general register), vector instructions, or ones relative to RIP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Access = Literal["read", "write", "execute", ""]
_REGISTERS = (
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R08", "R09", "R10", "R11", "R12", "R13", "R14", "R15",
)  # fmt: skip
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x66, 0xF0, 0xF2, 0xF3))
_SEGMENT = frozenset((0x64, 0x65))
_MASK = (1 << 64) - 1
# Opcodes with a ModRM byte that only read memory or only (also) write it; groups depend on the byte's middle field.
_READS = frozenset((0x02, 0x03, 0x0A, 0x0B, 0x12, 0x13, 0x1A, 0x1B, 0x22, 0x23, 0x2A, 0x2B, 0x32, 0x33, 0x38, 0x39,
                    0x3A, 0x3B, 0x63, 0x69, 0x6B, 0x84, 0x85, 0x8A, 0x8B))  # fmt: skip
_WRITES = frozenset((0x00, 0x01, 0x08, 0x09, 0x10, 0x11, 0x18, 0x19, 0x20, 0x21, 0x28, 0x29, 0x30, 0x31, 0x86, 0x87,
                     0x88, 0x89, 0x8F, 0xC0, 0xC1, 0xC6, 0xC7, 0xD0, 0xD1, 0xD2, 0xD3))  # fmt: skip
_READS_0F = frozenset((*range(0x40, 0x50), 0xA3, 0xAF, 0xB6, 0xB7, 0xB8, 0xBC, 0xBD, 0xBE, 0xBF))
_WRITES_0F = frozenset((*range(0x90, 0xA0), 0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xB0, 0xB1, 0xB3, 0xBB, 0xC0, 0xC1, 0xC3,
                        0xC7))  # fmt: skip
# For groups: which middle fields read; the others write.
_GROUPS: Mapping[int, frozenset[int]] = {
    0x80: frozenset((7,)), 0x81: frozenset((7,)), 0x83: frozenset((7,)), 0xF6: frozenset((0, 1, 4, 5, 6, 7)),
    0xF7: frozenset((0, 1, 4, 5, 6, 7)), 0xFE: frozenset(), 0xFF: frozenset((2, 3, 4, 5, 6)), 0x0FBA: frozenset((4,)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operand:
    """Memory that an instruction accesses: ``base + index * scale + offset``."""

    access: Access
    base: str = ""
    index: str = ""
    scale: int = 1
    offset: int = 0

    def address(self, registers: Mapping[str, int]) -> int | None:
        """Return the address, or None where a register is not known."""
        total = self.offset
        for name, times in ((self.base, 1), (self.index, self.scale)):
            if name:
                if name not in registers:
                    return None
                total += registers[name] * times
        return total & _MASK

    def pointer(self, registers: Mapping[str, int]) -> int | None:
        """Return what the base register held, None where there is none or an index was added to it."""
        return registers.get(self.base) if self.base and not self.index else None

    def __str__(self) -> str:
        parts = [self.base] if self.base else []
        if self.index:
            parts.append(f"{self.index}*{self.scale}" if self.scale > 1 else self.index)
        if self.offset or not parts:
            parts.append(f"{self.offset:#x}")
        return "+".join(parts).replace("+-", "-")


def decode(code: bytes) -> Operand | None:
    """Return the memory operand of the instruction that `code` begins with, or None.

    >>> str(decode(bytes.fromhex("488b4008"))), decode(bytes.fromhex("488b4008")).access
    ('RAX+0x8', 'read')
    """
    at, rex = 0, 0
    while at < len(code) and (code[at] in _PREFIXES):
        at += 1
    if at < len(code) and code[at] in _SEGMENT:
        return None
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    if at + 1 >= len(code):
        return None
    opcode, at = code[at], at + 1
    if opcode == 0x0F:
        opcode, at = 0x0F00 | code[at], at + 1
    if found := _implied(opcode):
        return found
    if at >= len(code):
        return None
    access = _access(opcode, code[at] >> 3 & 7)
    return _memory(access, code[at:], rex) if access else None


def _implied(opcode: int) -> Operand | None:
    """Instructions whose memory no byte names: pushes and calls write below RSP, string moves use RDI or RSI."""
    if 0x50 <= opcode <= 0x57 or opcode in (0xE8, 0x68, 0x6A, 0x9C):
        return Operand("write", "RSP", offset=-8)
    if opcode in (0xA4, 0xA5, 0xAA, 0xAB):
        return Operand("write", "RDI")
    if opcode in (0xAC, 0xAD):
        return Operand("read", "RSI")
    return None


def _access(opcode: int, field: int) -> Access:
    if opcode in _GROUPS:
        return "read" if field in _GROUPS[opcode] else "write"
    if opcode >= 0x0F00:
        low = opcode & 0xFF
        return "read" if low in _READS_0F else "write" if low in _WRITES_0F else ""
    return "read" if opcode in _READS else "write" if opcode in _WRITES else ""


def _memory(access: Access, code: bytes, rex: int) -> Operand | None:
    mode, low = code[0] >> 6, code[0] & 7
    if mode == 3:
        return None  # a register
    at, index, scale = 1, "", 1
    if low == 4:
        if len(code) < 2:
            return None
        sib, at = code[1], 2
        low = sib & 7
        number = (sib >> 3 & 7) | (rex & 2) << 2
        if number != 4:
            index, scale = _REGISTERS[number], 1 << (sib >> 6)
        if low == 5 and mode == 0:
            return Operand(access, "", index, scale, _signed(code[at : at + 4]))
    elif low == 5 and mode == 0:
        return None  # relative to RIP
    width = {0: 0, 1: 1, 2: 4}[mode]
    if len(code) < at + width:
        return None
    return Operand(access, _REGISTERS[low | (rex & 1) << 3], index, scale, _signed(code[at : at + width]))


def _signed(code: bytes) -> int:
    return int.from_bytes(code, "little", signed=True)
