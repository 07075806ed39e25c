"""Functions that ended by jumping into another one, put back into a stack by the code.

A compiler turns a call that is a function's last act into a jump, so that the function leaves no frame: a stack then
shows `kfree` below a worker although a module's function freed. The return address tells which function was called
(the call before it), or the worker which function it runs; where that is not the frame found there, it jumped on, and
the jumps of its code tell by which way. Where several ways lead there, only functions that all of them pass are told.
It cannot know a jump through a pointer. Cost: 5 ms a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise

from drgn import Program

from collectors.vmcore.machinecode import CALL_SIZE, LONGEST, Function
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import DAMAGE
from wardround.models.vmcore import StackFrame, plain
from wardround.text import clean

_MOST_FRAMES = 32
_DEEPEST = 6
_MOST_WAYS = 32
_MOST_LOOKED_AT = 200  # functions, for one stack
_STARTERS = frozenset(("process_one_work", "kthread"))  # they call the task's function through a pointer
_ENTRIES = ("asm_", "entry_", "ret_from_")


def with_jumped(
    prog: Program, areas: AddressMap, stack: Sequence[StackFrame], runs: str = ""
) -> tuple[StackFrame, ...]:
    """Return a stack with the modules' functions that jumped on in it; `runs` is the work item's or thread's function.

    Frames of the kernel's own functions are not put back: nobody is accused by them.
    """
    finder = _Jumps(prog, areas)
    out = list(stack[:1])
    for inner, outer in pairwise(stack):
        if len(out) < _MOST_FRAMES and not outer.exception and not inner.function.startswith(_ENTRIES):
            with suppress(*DAMAGE):  # the text is not in the dump
                out += finder.between(inner, outer, runs)
        out.append(outer)
    return tuple(out)


class _Jumps:
    def __init__(self, prog: Program, areas: AddressMap) -> None:
        self.prog, self.areas = prog, areas
        self._known: dict[int, list[int]] = {}

    def between(self, inner: StackFrame, outer: StackFrame, runs: str) -> list[StackFrame]:
        """The functions that `outer` called and that jumped on until `inner`, innermost first."""
        if inner.address is None or outer.address is None or not self.areas.is_code(inner.address):
            return []
        reached = inner.address - inner.offset
        called = self._called(outer.address)
        if called is not None:
            firsts = [called]
        elif plain(outer.function) in _STARTERS and runs:
            firsts = [symbol.address for symbol in self.prog.symbols(runs)]
        else:
            firsts = []
        for first in firsts:
            if first != reached and (way := self._way(first, reached, called is not None)):
                return [frame for at in reversed(way) if (frame := self._frame(at)).module]
        return []

    def _called(self, back: int) -> int | None:
        """The function that the call before a return address names; None where it goes through a pointer."""
        text = self.prog.read(back - CALL_SIZE, CALL_SIZE)
        targets = [target for _, target in Function(back - CALL_SIZE, text).calls()]
        named = targets[0] if targets and text[0] == 0xE8 else None
        if named is None or not self._begins(named) or "indirect_thunk" in self.prog.symbol(named).name:
            return None
        return named

    def _way(self, first: int, reached: int, sure: bool) -> list[int]:
        """The functions that every way of jumps passes; where none is found the first, if it was `sure` called."""
        if plain(self.prog.symbol(first).name) == plain(self.prog.symbol(reached).name):
            return []  # one function in parts
        ways = list(islice(self._ways((first,), reached), _MOST_WAYS))
        if not ways:
            return [first] if sure else []
        shared = set(ways[0]).intersection(*ways[1:])
        return [at for at in ways[0] if at in shared]

    def _ways(self, way: tuple[int, ...], reached: int) -> Iterator[tuple[int, ...]]:
        for target in self._targets(way[-1]):
            if target == reached:
                yield way
            elif target not in way and len(way) < _DEEPEST:
                yield from self._ways((*way, target), reached)

    def _targets(self, start: int) -> list[int]:
        """The functions that a function's code jumps to."""
        if start not in self._known:
            if len(self._known) >= _MOST_LOOKED_AT:
                return []
            size = min(self.prog.symbol(start).size, LONGEST)
            text = Function(start, self.prog.read(start, size) if size else b"")
            outside = dict.fromkeys(at for at in text.jumps() if not start <= at < start + size)
            self._known[start] = [at for at in outside if self.areas.is_code(at) and self._begins(at)]
        return self._known[start]

    def _begins(self, address: int) -> bool:
        try:
            return bool(self.prog.symbol(address).address == address)
        except LookupError:
            return False

    def _frame(self, start: int) -> StackFrame:
        name = clean(self.prog.symbol(start).name, 256)
        return StackFrame(name, address=start, module=self.areas.module(start), jumped=True)
