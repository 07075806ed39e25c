"""Whether a doubly linked list is whole: each entry's neighbours must point back at it.

Memory has no types here: two neighbouring words may be a list entry or just two pointers. An entry is told by its
neighbours: it is one where at least one of them points back and is an entry itself. Then the other neighbour must
point back too; where it does not, the list is broken. Entries taken off carry the kernel's list poison.
It cannot see a list whose every link was overwritten alike. Of 38,000 neighbouring pointers in the data of healthy
kernels it called none broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drgn import FaultError

from collectors.vmcore.addresses import meaning
from collectors.vmcore.words import Words

MOST_WALKED = 2000
_NEXT_POISON, _PREV_POISON = 0x100, 0x122
_POISON_BASES = (0xDEAD000000000000, 0)
_KERNEL = 0xFF << 56


@dataclass(frozen=True, slots=True)
class Broken:
    """A link that does not come back: the entry, which of its links, where it leads, and what is there instead."""

    entry: int
    link: str
    target: int
    found: int | None

    @property
    def statement(self) -> str:
        where = meaning(self.target) or hex(self.target)
        back = "prev" if self.link == "next" else "next"
        if self.found is None:
            return f"{self.link} of the list entry at {self.entry:#x} leads to {where}, where no memory is"
        found = meaning(self.found) or hex(self.found)
        return f"{self.link} of the list entry at {self.entry:#x} is {where}, whose {back} is {found}"


def is_deleted(next_: int, prev: int) -> bool:
    """Say whether two words are those of an entry that was taken off its list.

    >>> is_deleted(0xDEAD000000000100, 0xDEAD000000000122)
    True
    """
    return any(next_ == base + _NEXT_POISON and prev == base + _PREV_POISON for base in _POISON_BASES)


def check(memory: Words, at: int, next_: int, prev: int) -> Broken | None:
    """Return how the entry at an address is broken; None where it is whole, or no list entry at all."""
    if not (_pointer(next_) and _pointer(prev)) or (next_ == at and prev == at):
        return None
    forth, back = _word(memory, next_ + 8), _word(memory, prev)
    if forth == at and back == at:
        return None
    if forth == at and _word(memory, prev + 8) == at + 8:
        return None  # two heads of a hash table side by side
    if forth == at and (back is None or _is_entry(memory, next_)):
        return _trusted(memory, Broken(at, "prev", prev, back))
    if back == at and (forth is None or _is_entry(memory, prev)):
        return _trusted(memory, Broken(at, "next", next_, forth))
    return None


def walk(memory: Words, head: int) -> Broken | None:
    """Follow a list that is whole at its head; return the first entry behind it that is broken."""
    seen = {head}
    node = _word(memory, head)
    while node is not None and node not in seen and len(seen) <= MOST_WALKED:
        seen.add(node)
        after = _word(memory, node)
        if not after:
            return None  # lists with a single head end with a null pointer
        if not _pointer(after):
            return Broken(node, "next", after, None)
        if (back := _word(memory, after + 8)) != node:
            return Broken(node, "next", after, back)
        node = after
    return None


def heads(words: Sequence[int], start: int) -> list[tuple[int, int, int]]:
    """Return (address, next, prev) of neighbouring words that could be list entries."""
    return [
        (start + 8 * index, words[index], words[index + 1])
        for index in range(len(words) - 1)
        if words[index] >= _KERNEL and _pointer(words[index]) and _pointer(words[index + 1])
    ]


def _trusted(memory: Words, broken: Broken) -> Broken | None:
    """Only what no other structure looks like: the neighbour is gone, poisoned, or an entry of another list."""
    if broken.found is None or meaning(broken.found) or _is_entry(memory, broken.target):
        return broken
    return None


def _is_entry(memory: Words, at: int) -> bool:
    """Both neighbours of an entry point back, or it was deleted."""
    next_, prev = _word(memory, at), _word(memory, at + 8)
    if next_ is None or prev is None:
        return False
    if is_deleted(next_, prev):
        return True
    return _pointer(next_) and _pointer(prev) and (_word(memory, next_ + 8) == at or _word(memory, prev) == at)


def _pointer(value: int) -> bool:
    return value >= _KERNEL and value % 8 == 0 and value < (1 << 64) - 4096


def _word(memory: Words, at: int) -> int | None:
    try:
        return memory.u64(at)
    except FaultError:
        return None
