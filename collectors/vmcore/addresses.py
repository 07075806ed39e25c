"""What a kernel address says by its value alone: a null pointer with an offset, a poison, an error code, no address.

Values are those of the kernel's ``include/linux/poison.h``, ``err.h`` and of 48- and 57-bit address spaces. It cannot
know what lies at an ordinary address: that needs the dump.
"""

from __future__ import annotations

import errno
from typing import Literal

NEAR_NULL = 16 * 4096
_TOP = 1 << 64
_MAX_ERRNO = 4095
# x86-64 and arm64 add this to list poison so that it is no valid address
_POISON_BASE = 0xDEAD000000000000
_LIST = {
    0x100: "the next pointer of a list entry already deleted",
    0x122: "the previous pointer of a list entry already deleted",
}
_BYTES = {
    0x6B: "the fill of freed slab memory",
    0x5A: "the fill of slab memory not yet written",
    0xBB: "the red zone of a freed slab object",
    0xCC: "the red zone of a slab object, or the fill of freed memory",
    0xA5: "the last byte's fill of freed slab memory",
    0xAA: "the fill of freed pages",
    0x9A: "the fill of freed init memory",
}

Class = Literal["null", "error", "freed", "poison", "non_canonical", "user", "kernel"]


def classify(address: int) -> Class:
    """Say which kind of address this is.

    >>> classify(0x10), classify(0xDEAD000000000108), classify(0x6B6B6B6B6B6B6BA3)
    ('null', 'freed', 'freed')
    """
    if address < NEAR_NULL:
        return "null"
    if _error(address):
        return "error"
    if _list_poison(address) or _filled(address) in (0x6B, 0xBB, 0xAA, 0x9A):
        return "freed"
    if _filled(address) is not None:
        return "poison"
    high = address >> 47
    if high == 0 or address >> 56 == 0:
        return "user"
    return "kernel" if address >> 56 == 0xFF else "non_canonical"


def meaning(address: int, base: int | None = None) -> str:
    """Say in words what an address is; empty for an ordinary one. `base` is the register it was formed from, if known.

    >>> meaning(0x18)
    'a null pointer plus 0x18'
    >>> meaning(0xFFFFFFFFFFFFFFEA)
    'the error code -EINVAL taken for a pointer, or a null pointer less 0x16'
    """
    kind = classify(address)
    if kind == "error" and base == 0:
        return f"a null pointer less {_TOP - address:#x}"
    if kind == "error" and base is not None and _error(base):
        name = errno.errorcode.get(_TOP - base)
        return f"the error code {f'-{name}' if name else base - _TOP} taken for a pointer"
    if kind == "null":
        return f"a null pointer plus {address:#x}" if address else "a null pointer"
    if kind == "error":
        number = _TOP - address
        name = errno.errorcode.get(number)
        code = f"the error code -{name} taken for a pointer, or " if name else ""
        return f"{code}a null pointer less {number:#x}"
    if (offset := _list_poison(address)) is not None:
        base = max((at for at in _LIST if at <= offset), default=0x100)
        plus = f", plus {offset - base:#x}" if offset > base else ""
        return f"{_LIST[base]}{plus}"
    if (byte := _filled(address)) is not None:
        return f"{_BYTES[byte]} ({byte:#x})"
    return {"non_canonical": "no valid address at all", "user": "an address of user space"}.get(kind, "")


def null_based(address: int | None, base: int | None) -> bool:
    """Whether an address just below zero was formed from a null pointer (a member before it), not from an error code.

    >>> null_based(0xFFFFFFFFFFFFFFE0, 0), null_based(0xFFFFFFFFFFFFFFE0, 0xFFFFFFFFFFFFFFE0)
    (True, False)
    """
    return address is not None and base == 0 and _error(address)


def _error(address: int) -> bool:
    return _TOP - _MAX_ERRNO <= address < _TOP


def _list_poison(address: int) -> int | None:
    offset = address - _POISON_BASE
    return offset if 0x100 <= offset < 0x1000 else None


def _filled(address: int) -> int | None:
    """The byte that fills an address, a member's offset added or not: its upper six bytes agree."""
    byte = address >> 56
    return byte if byte in _BYTES and address >> 16 == int.from_bytes(bytes([byte]) * 6, "big") else None
