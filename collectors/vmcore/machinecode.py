"""A function's machine code on x86-64, read without a disassembler: what it calls, jumps to, and names.

A call or a jump to another function is one or two bytes and a signed distance; a variable's address stands in the code
as 32 bits of itself or as a distance. So every such distance that ends exactly on a known address is a use of it.
It cannot know calls through pointers, nor other architectures' code: it then finds nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LONGEST = 65536
CALL_SIZE = 5
_CALL, _JUMP, _SHORT_JUMP = 0xE8, 0xE9, 0xEB
_ARGUMENT_APART = 16
# The operands' byte of a lea, for an offset of 8 and of 32 bits: into rdi, into any register; where the base is rsp or
# r12 one byte more follows. Then: mov from a register to rdi.
_RDI = (rb"[\x78-\x7b\x7d-\x7f]", rb"[\xb8-\xbb\xbd-\xbf]")
_RDI_SIB = (rb"\x7c", rb"\xbc")
_ANY = (rb"[\x40-\x7f]", rb"[\x80-\xbf]")
_ANY_SIB = (rb"[\x44\x4c\x54\x5c\x64\x6c\x74\x7c]", rb"[\x84\x8c\x94\x9c\xa4\xac\xb4\xbc]")
_MOVE = rb"[\x48\x4c]\x89[\xc7\xcf\xd7\xdf\xe7\xef\xf7]"


@dataclass(frozen=True)
class Function:
    """A function's text up to a point: where it begins, its bytes."""

    start: int
    text: bytes = field(repr=False)

    @cached_property
    def _distances(self) -> NDArray[np.int64]:
        """The signed 32 bits at every byte but the last three."""
        raw = np.frombuffer(self.text, np.uint8)
        count = max(len(raw) - 3, 0)
        value = np.zeros(count, np.uint32)
        for byte in range(4):
            value |= raw[byte : byte + count].astype(np.uint32) << np.uint32(8 * byte)
        return value.view(np.int32).astype(np.int64)

    def calls(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, target) of what may be calls."""
        raw = np.frombuffer(self.text, np.uint8)
        places = np.flatnonzero(raw[: max(len(raw) - 4, 0)] == _CALL)
        return zip(places.tolist(), self._targets(places + 1), strict=True)

    def jumps(self) -> list[int]:
        """Targets of what may be jumps, near or short. Those on a condition do not leave a function."""
        raw = np.frombuffer(self.text, np.uint8)
        near = np.flatnonzero(raw[: max(len(raw) - 4, 0)] == _JUMP)
        short = np.flatnonzero(raw[: max(len(raw) - 1, 0)] == _SHORT_JUMP)
        distances = raw[short + 1].view(np.int8).astype(np.int64)
        targets: list[int] = (_signed(self.start) + short + 2 + distances).astype(np.uint64).tolist()
        return self._targets(near + 1) + targets

    def _targets(self, distances_at: NDArray[np.int64]) -> list[int]:
        """Where the distances at these offsets lead, counted from the byte after each."""
        targets = _signed(self.start) + distances_at + 4 + self._distances[distances_at]
        found: list[int] = targets.astype(np.uint64).tolist()
        return found

    def named(self) -> NDArray[np.uint64]:
        """Every address that 32 bits of the text may mean, as a distance or as itself."""
        ends = _signed(self.start) + np.arange(len(self._distances), dtype=np.int64) + 4
        return np.concatenate([ends + self._distances, self._distances]).astype(np.uint64)

    def mentions(self, address: int) -> list[int]:
        """Offsets of the places that name an address, as itself or as a distance."""
        distances = self._distances
        ends = _signed(self.start) + np.arange(len(distances), dtype=np.int64) + 4
        wanted = _signed(address)
        places: list[int] = np.flatnonzero((distances == wanted) | (ends + distances == wanted)).tolist()
        return places

    def argument_at(self, call: int, offset: int) -> bool:
        """Whether the first argument of a call is what a register points to plus an offset: ``lea 0x40(%rbx),%rdi``,
        ``add $0x40,%rdi``; or ``mov %rbp,%rdi`` with, for another offset than 0, ``lea 0x40(%rdi),%rbp`` before."""
        before = self.text[max(call - _ARGUMENT_APART, 0) : call]
        if _added(before, offset, _RDI, _RDI_SIB):
            return True
        moved = re.search(_MOVE, before, re.DOTALL) is not None
        return moved and (offset == 0 or _added(self.text[:call], offset, _ANY, _ANY_SIB))


def _added(text: bytes, offset: int, registers: tuple[bytes, bytes], sib: tuple[bytes, bytes]) -> bool:
    """Whether a lea with this offset, or an addition of it to rdi, is in a text. The offset takes 8 bits or 32."""
    if not 0 < offset < 1 << 31:
        return False
    wide = offset >= 128
    value = re.escape(struct.pack("<i" if wide else "<b", offset))
    lea = rb"[\x48\x49\x4c\x4d]\x8d(?:" + registers[wide] + rb"|" + sib[wide] + rb"\x24)" + value
    add = (rb"\x48\x81\xc7" if wide else rb"\x48\x83\xc7") + value
    return re.search(lea, text, re.DOTALL) is not None or re.search(add, text, re.DOTALL) is not None


def _signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address
