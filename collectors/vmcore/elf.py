"""An ELF core's own table of contents: its segments and notes, how much of the file should be there; and a new one's.

Source: the program headers; nothing of it is believed beyond the file's end. drgn reads the same, but does not tell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOAD, NOTE = 1, 4
_AUXV, _PRPSINFO = 6, 3  # notes of a program's core; a kernel's has none of them
_MOST_HEADERS = 1 << 20
SMALL_COPY = b"WARDROUND"  # a note that tells which version chose the pages
_MANY = 0xFFFF  # the header's count is too small: the first section tells it
_MOST_NOTES = 64 << 20
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header: where in the file, the physical address, how many bytes."""

    kind: int
    offset: int
    physical: int
    size: int


def segments(path: Path) -> tuple[Segment, ...]:
    """Return the segments of a 64-bit little-endian ELF file, those that can be read. :raises OSError: it cannot be"""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return ()
        at, sections = struct.unpack_from("<QQ", head, 32)
        each, count = struct.unpack_from("<HH", head, 54)
        end = path.stat().st_size
        if count == _MANY and 0 < sections <= end - 64:
            file.seek(sections)
            count = struct.unpack_from("<I", file.read(64), 44)[0]
        if each != 56 or at >= end:
            return ()
        file.seek(at)
        table = file.read(each * min(count, _MOST_HEADERS))
    rows = (struct.unpack_from("<IIQQQQ", table, start) for start in range(0, len(table) - 55, 56))
    return tuple(Segment(kind, offset, physical, size) for kind, _, offset, _, physical, size in rows)


def notes(path: Path) -> bytes:
    """Return a core's first segment of notes, as it lies in the file. :raises OSError: it cannot be read"""
    for segment in segments(path):
        if segment.kind == NOTE and segment.size <= _MOST_NOTES:
            with path.open("rb") as file:
                file.seek(min(segment.offset, path.stat().st_size))
                return file.read(segment.size)
    return b""


def each_note(raw: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (name, kind, content) of notes."""
    at = 0
    while at + 12 <= len(raw):
        name_size, size, kind = struct.unpack_from("<III", raw, at)
        name_at = at + 12
        content_at = name_at + -(-name_size // 4) * 4
        yield raw[name_at : name_at + name_size].rstrip(b"\0"), kind, raw[content_at : content_at + size]
        at = content_at + -(-size // 4) * 4


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """Return one note as it lies in a file."""
    head = struct.pack("<III", len(name) + 1, len(content), kind)
    return head + name.ljust(-(-(len(name) + 1) // 4) * 4, b"\0") + content.ljust(-(-len(content) // 4) * 4, b"\0")


def is_of_a_program(path: Path) -> bool:
    """Whether this is the core of a user's program: it carries the program's name or its auxiliary vector."""
    return any(name == b"CORE" and kind in (_AUXV, _PRPSINFO) for name, kind, _ in each_note(notes(path)))


def missing(path: Path) -> tuple[int, int]:
    """Return (bytes that lie behind the file's end, bytes that it should have)."""
    wanted = max((segment.offset + segment.size for segment in segments(path)), default=0)
    return max(0, wanted - path.stat().st_size), wanted


def core(notes: bytes, runs: list[tuple[int, int]], machine: int) -> tuple[bytes, int]:
    """Return (a core's headers and notes, its whole size). `runs` are (first page, number of pages) of memory."""
    notes_at = 64 + 56 * (len(runs) + 1)
    at = data_at = -(-(notes_at + len(notes)) // _PAGE) * _PAGE
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 64, 0, 0, 64, 56, len(runs) + 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", NOTE, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    for first, count in runs:
        head += struct.pack("<IIQQQQQQ", LOAD, 7, at, 0, first * _PAGE, count * _PAGE, count * _PAGE, 0)
        at += count * _PAGE
    return (head + notes).ljust(data_at, b"\0"), at
