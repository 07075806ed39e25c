"""Which locks a function takes before a given point: read from the kernel's text in the dump, without a disassembler.

On x86-64 a call is one byte and a signed distance, and the address of a static variable stands in the code as 32 bits
of itself or as a distance. So: every such distance that ends exactly on a locking function is a call of it, and a
lock's address next to it says on which lock. The order is that of the code, which may differ from that of the run.
It cannot know locks that are reached by a pointer, nor other architectures' code: it then finds nothing.
Cost: 0.1 ms a function, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from drgn import Program
from numpy.typing import NDArray

from collectors.vmcore.open import DAMAGE
from collectors.vmcore.waiters import bare
from wardround.models.vmcore import LockKind

_LONGEST = 65536
_CALL = 0xE8
_APART = 48  # bytes between the load of a lock's address and the call it is meant for

TAKES: dict[LockKind, frozenset[str]] = {
    "rwsem": frozenset(
        """down_read down_read_interruptible down_read_killable down_read_trylock down_write down_write_killable
        down_write_trylock down_read_nested down_write_nested down_read_killable_nested down_write_killable_nested
        """.split()
    ),
    "semaphore": frozenset("down down_interruptible down_killable down_trylock down_timeout".split()),
    "spinlock": frozenset(
        """_raw_spin_lock _raw_spin_lock_irq _raw_spin_lock_irqsave _raw_spin_lock_bh _raw_spin_trylock
        _raw_spin_trylock_bh _raw_read_lock _raw_read_lock_irq _raw_read_lock_irqsave _raw_read_lock_bh
        _raw_write_lock _raw_write_lock_irq _raw_write_lock_irqsave _raw_write_lock_bh""".split()
    ),
}
RELEASES: dict[LockKind, frozenset[str]] = {
    "rwsem": frozenset("up_read up_write up_read_non_owner".split()),
    "semaphore": frozenset(["up"]),
    "spinlock": frozenset(
        """_raw_spin_unlock _raw_spin_unlock_irq _raw_spin_unlock_irqrestore _raw_spin_unlock_bh _raw_read_unlock
        _raw_read_unlock_irq _raw_read_unlock_irqrestore _raw_read_unlock_bh _raw_write_unlock
        _raw_write_unlock_irq _raw_write_unlock_irqrestore _raw_write_unlock_bh""".split()
    ),
}


@dataclass(frozen=True)
class Function:
    """A function's text up to a point: where it begins, its name, its bytes."""

    start: int
    name: str
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


class Code:
    """Reads functions and finds what they lock. Answers are kept: many tasks are in the same functions."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self._functions: dict[int, Function | None] = {}
        self._calls: dict[tuple[int, LockKind], list[tuple[int, bool]]] = {}
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
        if pc not in self._functions:
            try:
                symbol = self.prog.symbol(pc - 1)
                length = pc - symbol.address
                text = self.prog.read(symbol.address, length) if 0 < length <= _LONGEST else b""
                self._functions[pc] = Function(symbol.address, bare(symbol.name), text)
            except DAMAGE:
                self._functions[pc] = None
        return self._functions[pc]

    def calls(self, pc: int, kind: LockKind) -> list[tuple[int, bool]]:
        """Calls of a kind's functions before a frame's address: (offset, whether it takes). The one that has not come
        back yet is not among them."""
        key = pc, kind
        if key not in self._calls:
            function, named = self.function(pc), self._named.get(kind, {})
            self._calls[key] = (
                []
                if function is None
                else [
                    (place, named[target])
                    for place, target in function.calls()
                    if target in named and function.start + place + 5 < pc
                ]
            )
        return self._calls[key]

    def holds(self, pc: int, kind: LockKind, addresses: tuple[int, ...]) -> bool | None:
        """Whether a function, stopped at an address, has taken a lock and not yet released it; None: it does not name
        the lock. `addresses` are the lock's and of the variable it is part of."""
        function = self.function(pc)
        if function is None:
            return None
        calls = self.calls(pc, kind)
        mentions = [at for address in addresses for at in function.mentions(address)] if calls else []
        if not mentions:
            return None
        near = [takes for place, takes in calls if any(0 < place - at <= _APART for at in mentions)]
        return near[-1] if near else calls[-1][1]


def _signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address
