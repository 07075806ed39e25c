"""Unpacks LZO1X, by which distributions pack dumps (`makedumpfile -l`). For the pages of cut dumps alone: it is slow.

Source: Linux' Documentation/staging/lzo.rst. Measured cost: 0.2 ms a page of
4 KiB.
"""

from __future__ import annotations

_FAR, _FARTHER = 0x800, 0x4000
_END = 17  # an instruction below is of the common kind also at the start


class LzoError(ValueError):
    """The data is damaged."""


def unpack(data: bytes, most: int) -> bytes:
    """Return what `data` packs. :raises LzoError: it is damaged, or more than `most` bytes"""
    try:
        return _Unpacking(data, most).run()
    except IndexError:
        raise LzoError("it ends too early") from None


class _Unpacking:
    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = data, most
        self._at = 0
        self._out = bytearray()

    def run(self) -> bytes:
        """Follow the instructions. `literals` are those copied after the last one, which the next one's meaning hangs
        on; 4 stands for a run of its own."""
        literals = 0
        if self._data[0] > _END:
            literals = min(self._byte() - _END, 1 << 8)
            self._literal(literals)
            literals = min(literals, 4)
        while True:
            code = self._byte()
            if code < 16 and literals == 0:
                self._literal(self._length(code, 15) + 3)
                literals = 4
                continue
            if code >= 64:
                back, length, low = 1 + (code >> 2 & 7) + (self._byte() << 3), (code >> 5) + 1, code
            elif code >= 32:
                length = self._length(code & 31, 31) + 2
                low = self._byte() | self._byte() << 8
                back = 1 + (low >> 2)
            elif code >= 16:
                length = self._length(code & 7, 7) + 2
                low = self._byte() | self._byte() << 8
                back = ((code & 8) << 11) + (low >> 2)
                if not back:
                    return bytes(self._out)
                back += _FARTHER
            else:
                back, low = 1 + (code >> 2) + (self._byte() << 2), code
                length = 3 if literals == 4 else 2
                back += _FAR if literals == 4 else 0
            self._copy(back, length)
            literals = low & 3
            self._literal(literals)

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _length(self, bits: int, most: int) -> int:
        """A length that does not fit its bits is 0 there, and as many zeros follow as 255 are to be added."""
        if bits:
            return bits
        while not self._data[self._at]:
            self._at += 1
            most += 255
        return most + self._byte()

    def _literal(self, count: int) -> None:
        self._room(count)
        if self._at + count > len(self._data):
            raise LzoError("it ends too early")
        self._out += self._data[self._at : self._at + count]
        self._at += count

    def _copy(self, back: int, length: int) -> None:
        """Repeat what was unpacked before; it may overlap what it makes."""
        self._room(length)
        start = len(self._out) - back
        if start < 0:
            raise LzoError("it repeats what is before its start")
        piece = self._out[start : start + length]
        self._out += (piece * (length // len(piece) + 1))[:length]

    def _room(self, count: int) -> None:
        if len(self._out) + count > self._most:
            raise LzoError("it is too long")
