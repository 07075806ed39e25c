"""Which locks a function takes before a given point: read from the kernel's text in the dump, without a disassembler.

On x86-64 a call is one byte and a signed distance, and the address of a static variable stands in the code as 32 bits
of itself or as a distance. So: every such distance that ends exactly on a locking function is a call of it, and a
lock's address next to it says on which lock. The order is that of the code, which may differ from that of the run.
It cannot know which lock is meant where it is reached by a pointer (only how far into an object it lies), nor other
architectures' code: it then finds nothing. Cost: 0.1 ms a function, once.
"""

from __future__ import annotations

from drgn import Program

from collectors.vmcore.machinecode import CALL_SIZE, LONGEST, Function
from collectors.vmcore.open import DAMAGE
from wardround.models.vmcore import LockKind

_APART = 48  # bytes between the load of a lock's address and the call it is meant for
_NEAR = 1 << 20  # a module's functions lie this near to each other
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
                text = self.prog.read(start, end - start) if 0 < end - start <= LONGEST else b""
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
                if target in named and place + CALL_SIZE < len(function.text)
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
            if abs(target - function.start) > _NEAR or place + CALL_SIZE >= len(function.text):
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
