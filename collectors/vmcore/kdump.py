"""The notes within a kdump-compressed dump: the registers of each CPU, which a copy in another format needs.

Source: makedumpfile's IMPLEMENTATION text. The second block is the sub-header, which since version 4 tells where the
notes are; a flattened file is the same cut into records, each with its place. All other reading is libkdumpfile's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

from collectors.vmcore.formats import FLATTENED, KDUMP

_BLOCK_SIZE_AT, _NOTES_AT = 428, 48
_FLAT_HEADER = 4096
_MOST_RECORDS = 1 << 20
_MOST_NOTES = 64 << 20


def notes(path: Path) -> bytes:
    """Return the notes as they lie in the file; empty where there are none. :raises OSError: it cannot be read"""
    with path.open("rb") as file:
        read = _flattened(file) if file.read(len(FLATTENED)) == FLATTENED else _plain(file)
        head = read(0, _BLOCK_SIZE_AT + 4)
        if not head.startswith(KDUMP) or len(head) < _BLOCK_SIZE_AT + 4:
            return b""
        version, block = struct.unpack_from("<i", head, 8)[0], struct.unpack_from("<i", head, _BLOCK_SIZE_AT)[0]
        if version < 4 or not 0 < block <= 1 << 20:
            return b""
        place = read(block + _NOTES_AT, 16)
        if len(place) < 16:
            return b""
        at, size = struct.unpack("<QQ", place)
        return read(at, size) if size <= _MOST_NOTES else b""


def _plain(file: IO[bytes]) -> Callable[[int, int], bytes]:
    def read(at: int, size: int) -> bytes:
        file.seek(min(at, 1 << 62))
        return file.read(size)

    return read


def _flattened(file: IO[bytes]) -> Callable[[int, int], bytes]:
    """Records of (place, size), both big-endian, and content; a negative place ends them."""
    records: list[tuple[int, int, int]] = []
    at = _FLAT_HEADER
    while len(records) < _MOST_RECORDS:
        file.seek(at)
        head = file.read(16)
        if len(head) < 16:
            break
        place, size = struct.unpack(">qq", head)
        if place < 0 or size <= 0:
            break
        records.append((place, size, at + 16))
        at += 16 + size

    def read(at: int, size: int) -> bytes:
        content = bytearray(size if size <= _MOST_NOTES else 0)
        for place, length, begin in records:
            first, last = max(at, place), min(at + size, place + length)
            if first < last and len(content) == size:
                file.seek(begin + first - place)
                content[first - at : last - at] = file.read(last - first)
        return bytes(content)

    return read
