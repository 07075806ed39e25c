"""Plain words of a dump's memory, a page at a time.

A single read through drgn walks the page tables in the file and costs 4 to 6 µs, a page of 4 KiB hardly more; the
sections that follow thousands of pointers read neighbours, so pages are kept for a while: 0.3 µs a word then.
"""

from __future__ import annotations

import struct
from array import array

from drgn import FaultError, Program

_SHIFT = 12
_SIZE = 1 << _SHIFT
_MOST_PAGES = 3072
_TOP = (1 << 64) - 1
_U64, _U32 = struct.Struct("<Q"), struct.Struct("<I")


class Words:
    """Reads words of a program's memory. Each method raises FaultError where the dump has nothing at the address."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._pages: dict[int, bytes | None] = {}

    def page(self, number: int) -> bytes:
        try:
            page = self._pages[number]
        except KeyError:
            page = self._load(number)
        if page is None:
            raise FaultError("not in the dump", number << _SHIFT)
        return page

    def _load(self, number: int) -> bytes | None:
        if len(self._pages) >= _MOST_PAGES:
            self._pages.clear()
        try:
            page: bytes | None = self._prog.read(number << _SHIFT, _SIZE)
        except (FaultError, OverflowError):
            page = None
        self._pages[number] = page
        return page

    def u64(self, address: int) -> int:
        address &= _TOP
        at = address & (_SIZE - 1)
        if at > _SIZE - 8:
            return int.from_bytes(self.read(address, 8), "little")
        value: int = _U64.unpack_from(self.page(address >> _SHIFT), at)[0]
        return value

    def u32(self, address: int) -> int:
        address &= _TOP
        at = address & (_SIZE - 1)
        if at > _SIZE - 4:
            return int.from_bytes(self.read(address, 4), "little")
        value: int = _U32.unpack_from(self.page(address >> _SHIFT), at)[0]
        return value

    def s32(self, address: int) -> int:
        value = self.u32(address)
        return value - (value >> 31 << 32)

    def s64(self, address: int) -> int:
        value = self.u64(address)
        return value - (value >> 63 << 64)

    def bits(self, address: int, place: tuple[int, int]) -> int:
        """Read a bit field of at most 32 bits by its (bit offset, width) within the structure at an address."""
        bit, width = place
        return self.u32(address + bit // 32 * 4) >> bit % 32 & ((1 << width) - 1)

    def read(self, address: int, size: int) -> bytes:
        address &= _TOP
        first, last = address >> _SHIFT, (address + size - 1) >> _SHIFT
        whole = b"".join(self.page(number) for number in range(first, last + 1))
        start = address - (first << _SHIFT)
        return whole[start : start + size]

    def many(self, address: int, count: int) -> array[int]:
        """Read so many words of 64 bits."""
        found = array("Q")
        found.frombytes(self.read(address, 8 * count))
        return found

    def some(self, address: int, count: int) -> array[int]:
        """Read words up to the first page that the dump lacks; empty where that is the first."""
        found = array("Q")
        while count > 0:
            part = min(count, (_SIZE - (address & (_SIZE - 1))) // 8)
            try:
                found.extend(self.many(address, part or 1))
            except FaultError:
                break
            address, count = address + 8 * (part or 1), count - (part or 1)
        return found

    def text(self, address: int, most: int = 64) -> str:
        """Read a NUL-terminated string, cleaned of what is no printable ASCII."""
        raw = bytearray()
        while len(raw) < most:
            room = min(most - len(raw), _SIZE - ((address + len(raw)) & (_SIZE - 1)))
            part, end, _ = self.read(address + len(raw), room).partition(b"\0")
            raw += part
            if end:
                break
        return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)


def words(prog: Program) -> Words:
    """Return a program's reader, made once."""
    made: Words = prog.cache.setdefault("wardround_words", Words(prog))
    return made
