"""Which locks a function takes before a given point: read from the kernel's text in the dump, without a disassembler.

On x86-64 a call is one byte and a signed distance, and the address of a static variable stands in the code as 32 bits
of itself or as a distance. So: every such distance that ends exactly on a locking function is a call of it, and a
lock's address next to it says on which lock. The order is that of the code, which may differ from that of the run.
It cannot know which lock is meant where it is reached by a pointer (only how far into an object it lies), nor other
architectures' code: it then finds nothing. Cost: 0.1 ms a function, once.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from drgn import Program
from numpy.typing import NDArray

from collectors.vmcore.open import DAMAGE
from wardround.models.vmcore import LockKind

_LONGEST = 65536
_CALL = 0xE8
_CALL_SIZE = 5
_APART = 48  # bytes between the load of a lock's address and the call it is meant for
_ARGUMENT_APART = 16
_NEAR = 1 << 20  # a module's functions lie this near to each other
# The operands' byte of a lea, for an offset of 8 and of 32 bits: into rdi, into any register; where the base is rsp or
# r12 one byte more follows. Then: mov from a register to rdi.
_RDI = (rb"[\x78-\x7b\x7d-\x7f]", rb"[\xb8-\xbb\xbd-\xbf]")
_RDI_SIB = (rb"\x7c", rb"\xbc")
_ANY = (rb"[\x40-\x7f]", rb"[\x80-\xbf]")
_ANY_SIB = (rb"[\x44\x4c\x54\x5c\x64\x6c\x74\x7c]", rb"[\x84\x8c\x94\x9c\xa4\xac\xb4\xbc]")
_MOVE = rb"[\x48\x4c]\x89[\xc7\xcf\xd7\xdf\xe7\xef\xf7]"

_SPINNING = [f"_raw_{kind}" for kind in ("spin", "read", "write")]
TAKES: dict[LockKind, frozenset[str]] = {
    "rwsem": frozenset(
        f"down_{how}{suffix}"
        for how in ("read", "write")
        for suffix in ("", "_interruptible", "_killable", "_trylock", "_nested", "_killable_nested")
    ),
    "semaphore": frozenset(["down", "down_interruptible", "down_killable", "down_trylock", "down_timeout"]),
    "spinlock": frozenset(
        f"{kind}_{suffix}"
        for kind in _SPINNING
        for suffix in ("lock", "lock_irq", "lock_irqsave", "lock_bh", "lock_nested", "trylock", "trylock_bh")
    ),
}
RELEASES: dict[LockKind, frozenset[str]] = {
    "rwsem": frozenset(["up_read", "up_write", "up_read_non_owner"]),
    "semaphore": frozenset(["up"]),
    "spinlock": frozenset(
        f"{kind}_unlock{suffix}" for kind in _SPINNING for suffix in ("", "_irq", "_irqrestore", "_bh")
    ),
}


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
        targets = _signed(self.start) + places + 5 + self._distances[places + 1]
        return zip(places.tolist(), (targets.astype(np.uint64)).tolist(), strict=True)

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


class Code:
    """Reads functions and finds what they lock. Answers are kept: many tasks are in the same functions."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self._at: dict[int, Function | None] = {}
        self._functions: dict[tuple[int, int], Function | None] = {}
        self._calls: dict[tuple[int, int, LockKind], list[tuple[int, bool]]] = {}
        self._named = {kind: self._addresses(kind) for kind in TAKES}

    def _addresses(self, kind: LockKind) -> dict[int, bool]:
        """Addresses of the functions that take (True) or release (False) a kind of lock."""
        found = {}
        for names, takes in ((TAKES[kind], True), (RELEASES[kind], False)):
            for name in names:
                try:
                    found[self.prog.symbol(name).address] = takes
                except LookupError:
                    continue
        return found

    def function(self, pc: int) -> Function | None:
        """Return the function that a frame is in, up to the frame's address."""
        if pc not in self._at:
            try:
                self._at[pc] = self._text(self.prog.symbol(pc - 1).address, pc)
            except LookupError:
                self._at[pc] = None
        return self._at[pc]

    def _text(self, start: int, end: int) -> Function | None:
        key = start, end
        if key not in self._functions:
            try:
                text = self.prog.read(start, end - start) if 0 < end - start <= _LONGEST else b""
                self._functions[key] = Function(start, text)
            except DAMAGE:
                self._functions[key] = None
        return self._functions[key]

    def calls(self, function: Function, kind: LockKind) -> list[tuple[int, bool]]:
        """Calls of a kind's functions: (offset, whether it takes). The one at the very end has not come back."""
        key = function.start, len(function.text), kind
        if key not in self._calls:
            named = self._named.get(kind, {})
            self._calls[key] = [
                (place, named[target])
                for place, target in function.calls()
                if target in named and place + _CALL_SIZE < len(function.text)
            ]
        return self._calls[key]

    def holds(self, pc: int, kind: LockKind, address: int, helpers: bool = False) -> bool | None:
        """Whether a function, stopped at an address, has taken a lock and not yet released it; None: it does not name
        the lock. With `helpers` the functions near it that it has called count too."""
        function = self.function(pc)
        if function is None:
            return None
        events = self._events(function, kind, address)
        if helpers:
            events += self._by_helpers(function, kind, address)
        return max(events)[1] if events else None

    def _events(self, function: Function, kind: LockKind, address: int) -> list[tuple[int, bool]]:
        """What a function does to a lock: calls soon after the lock's address was named; where it was named earlier
        (the compiler keeps it in a register), all calls of the kind."""
        calls = self.calls(function, kind)
        mentions = function.mentions(address) if calls else []
        near = [call for call in calls if any(0 < call[0] - at <= _APART for at in mentions)]
        return near or [call for call in calls if mentions and mentions[0] < call[0]]

    def _by_helpers(self, function: Function, kind: LockKind, address: int) -> list[tuple[int, bool]]:
        """What functions that this one has called, and that have come back, left of a lock: taken or released."""
        found = []
        for place, target in function.calls():
            if abs(target - function.start) > _NEAR or place + _CALL_SIZE >= len(function.text):
                continue
            try:
                symbol = self.prog.symbol(target)
            except LookupError:
                continue
            helper = self._text(target, target + symbol.size) if symbol.address == target else None
            events = self._events(helper, kind, address) if helper else []
            if events:
                found.append((place, max(events)[1]))
        return found

    def takes_at(self, pc: int, kind: LockKind, offset: int | None = None) -> bool:
        """Whether the last thing of a kind that a function did before an address is to take some lock; with an
        `offset`, one that far into the object that a register points to."""
        function = self.function(pc)
        calls = self.calls(function, kind) if function else []
        if function is None or not calls or not calls[-1][1]:
            return False
        return offset is None or function.argument_at(calls[-1][0], offset)


def _signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address
