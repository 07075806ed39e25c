"""What variable or slab object an address lies in.

Source: symbols of the kernel and its modules (static variables too, where the kernel was built with all of its
symbols), then the slab. Cost: 10 µs for a symbol, 0.2 ms for a slab object.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Program

from collectors.vmcore.open import DAMAGE
from collectors.vmcore.slabs import slabs

_FARTHEST = 1 << 20  # symbols have no sizes here: what lies farther behind one is not part of it


@dataclass(frozen=True, slots=True)
class Place:
    """`name` as ``symbol+0x10`` or ``kmalloc-64 object 0xffff…+0x10``, empty where nothing is known; `base` where the
    variable or object begins."""

    name: str
    base: int


def place_of(prog: Program, address: int) -> Place:
    """Name an address.

    >>> place_of(prog, 0xffffffffc0209018).name
    'buckets+0x18'
    """
    try:
        symbol = prog.symbol(address)
    except LookupError:
        pass
    else:
        offset = address - symbol.address
        if symbol.address and offset < _FARTHEST:
            return Place(f"{symbol.name}+{offset:#x}" if offset else symbol.name, symbol.address)
    try:
        found = slabs(prog).find(address)
    except DAMAGE:
        found = None
    if found is None:
        return Place("", address)
    offset, state = address - found.address, "freed " if found.free else ""
    inside = f"+{offset:#x}" if offset else ""
    return Place(f"{state}{found.cache.name} object {found.address:#x}{inside}", found.address)
