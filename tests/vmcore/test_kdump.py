"""What a kdump-compressed dump holds is found as far as the file goes, in every form and packing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow
import pytest

from collectors.vmcore import kdump, pieces
from collectors.vmcore.kdump import CutError, Kdump
from collectors.vmcore.open import load
from tests.vmcore import damage
from tests.vmcore.conftest import Vmcores

BLOCK = 4096
PAGES = {1: b"one" * 100, 2: b"two", 9: b"nine", 4100: b"far", 4101: b"farther"}
# The last page, as liblzo2 packs it.
LZO = "05666172746865720020000000000000000000000000000000d2000000020000000000000000000000000000000000000000110000"
PACKED: dict[int, tuple[int, Callable[[bytes], bytes]]] = {
    1: (0x20, lambda page: bytes(pyarrow.compress(page, codec="zstd", asbytes=True))),
    2: (1, zlib.compress),
    9: (4, lambda page: bytes(pyarrow.compress(page, codec="snappy", asbytes=True))),
    4100: (0, bytes),
    4101: (2, lambda page: bytes.fromhex(LZO)),
}


def made(path: Path) -> bytes:
    """A small dump of version 6 with pages packed in each way; a block of notes lies behind its sub-header."""
    notes, bitmap = b"notes" * 20, bytearray(BLOCK)
    for number in PAGES:
        bitmap[number // 8] |= 1 << number % 8
    sub = bytearray(BLOCK)
    struct.pack_into("<QQ", sub, 48, BLOCK + 200, len(notes))
    struct.pack_into("<Q", sub, 96, 8192)
    sub[200 : 200 + len(notes)] = notes
    head = b"KDUMP   " + struct.pack("<i", 6) + bytes(416) + struct.pack("<iiII", BLOCK, 1, 2, 8192)
    table, data, at = b"", b"", 4 * BLOCK + 24 * len(PAGES)
    for number, content in PAGES.items():
        flags, pack = PACKED[number]
        packed = pack(content.ljust(BLOCK, b"\0"))
        table += struct.pack("<qIIQ", at + len(data), len(packed), flags, 0)
        data += packed
    whole = head.ljust(BLOCK, b"\0") + bytes(sub) + b"\xff" * BLOCK + bytes(bitmap) + table + data
    path.write_bytes(whole)
    return whole


def flattened(path: Path, whole: bytes, ends: bool = True) -> None:
    """The same in records, the last first, the header at the end once more."""
    places = [*range(len(whole) // 1000 * 1000, -1, -1000), 0]
    records = [struct.pack(">qq", at, len(whole[at : at + 1000])) + whole[at : at + 1000] for at in places]
    path.write_bytes(b"makedumpfile".ljust(BLOCK, b"\0") + b"".join(records) + b"\xff" * 16 * ends)


@pytest.mark.parametrize("flat", [False, True])
def test_pages_are_found_and_unpacked(tmp_path: Path, flat: bool) -> None:
    whole = made(tmp_path / "dump")
    if flat:
        flattened(tmp_path / "dump", whole)
    with closing(Kdump(tmp_path / "dump")) as dump:
        assert dump.notes == b"notes" * 20
        assert dump.missing() == (0, len(PAGES))
        for number, content in PAGES.items():
            assert dump.page(number) == content.ljust(BLOCK, b"\0")
        for number in (0, 3, 5000, 1 << 40):
            with pytest.raises(CutError, match="left out"):
                dump.page(number)


TABLE = 4 * BLOCK


@pytest.mark.parametrize(("left", "missing"), [(TABLE + 24 * 5 + 1500, 2), (TABLE + 30, 5)])
def test_pages_behind_a_cut_are_missing_and_counted(tmp_path: Path, left: int, missing: int) -> None:
    whole = made(tmp_path / "dump")
    (tmp_path / "dump").write_bytes(whole[:left])
    assert kdump.missing(tmp_path / "dump") == (missing, 5)
    dump = Kdump(tmp_path / "dump")
    with pytest.raises(CutError):
        dump.page(4100)


def test_a_flattened_file_without_the_mark_of_its_end_tells_what_is_missing(tmp_path: Path) -> None:
    whole, places = made(tmp_path / "dump"), range(0, 18000, 1000)
    records = [struct.pack(">qq", at, 1000) + whole[at : at + 1000] for at in places]
    (tmp_path / "dump").write_bytes(b"makedumpfile".ljust(BLOCK, b"\0") + b"".join(records))
    assert kdump.missing(tmp_path / "dump") == (2, 5)


@pytest.mark.parametrize("size", [0, 11, 500, BLOCK + 10])
def test_a_file_cut_in_its_headers_is_no_error_of_ours(tmp_path: Path, size: int) -> None:
    whole = made(tmp_path / "dump")
    (tmp_path / "dump").write_bytes(whole[:size])
    assert kdump.missing(tmp_path / "dump") == (0, 0)
    assert kdump.notes(tmp_path / "dump") == b""


@pytest.mark.parametrize("form", ["kdump", "flattened"])
def test_real_dumps_are_read_alike_and_a_cut_one_up_to_its_cut(vmcores: Vmcores, tmp_path: Path, form: str) -> None:
    path = vmcores.get("nullptr", "6.1", form).path
    assert kdump.missing(path)[0] == 0
    raw, own = load(path), pieces.load(path, 62, pieces.reserve())
    for number in range(0, 32768, 512):
        content = own.read(number * BLOCK, BLOCK, physical=True)
        assert content == raw.read(number * BLOCK, BLOCK, physical=True)
    damage.copy(path, tmp_path / "cut", path.stat().st_size // 2)
    missing, total = kdump.missing(tmp_path / "cut")
    assert 0 < missing < total
