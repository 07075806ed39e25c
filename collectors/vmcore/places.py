"""What variable or slab object an address lies in.

Source: symbols of the kernel and its modules (static variables too, where the kernel was built with all of its
symbols), then the slab. Cost: 10 µs for a symbol, 0.2 ms for a slab object.
"""

from __future__ import annotations

from dataclasses import dataclass

from drgn import Program
from drgn.helpers.linux.slab import slab_object_info

from collectors.vmcore.open import DAMAGE

_FARTHEST = 1 << 20  # symbols have no sizes here: what lies farther behind one is not part of it


@dataclass(frozen=True, slots=True)
class Place:
    """`name` as ``symbol+0x10``, empty where nothing is known; `base` where the variable or object begins."""

    name: str
    base: int
    variable: bool = False


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
            return Place(f"{symbol.name}+{offset:#x}" if offset else symbol.name, symbol.address, True)
    try:
        info = slab_object_info(prog, address)
        if info is not None:
            cache = info.slab_cache.name.string_().decode("ascii", "replace")
            return Place(f"slab object {info.address:#x} ({cache})+{address - info.address:#x}", info.address)
    except DAMAGE:
        pass
    return Place("", address)
