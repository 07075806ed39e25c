"""The kernel log out of memory against what the guest printed on its console."""

from __future__ import annotations

import re
import struct

import pytest

from collectors.vmcore.log import LINE, _lines, _text, read_log
from collectors.vmcore.open import Dump as Opened
from collectors.vmcore.open import load
from tests.vmcore.conftest import Dump, Vmcores
from tests.vmcore.opened import opened


def test_every_line_of_the_console_stands_in_the_log_of_the_dump(dump: Dump) -> None:
    lines = read_log(opened(dump.path))
    texts = {line.text for line in lines}
    console = [
        found[1].strip()
        for raw in dump.log.read_text("utf-8", "replace").splitlines()
        if (found := re.match(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? (.*)", raw)) and found[1].strip()
    ]
    # the console has the warnings and worse where the guest boots quietly
    missing = [text for text in console if text not in texts]
    assert console
    assert len(missing) <= len(console) * 0.02, missing[:5]


def test_lines_carry_time_level_and_caller(vmcores: Vmcores) -> None:
    lines = read_log(opened(vmcores.get("nullptr").path))
    panic = next(line for line in lines if line.text.startswith("Kernel panic - not syncing"))
    assert panic.level == 0
    assert re.fullmatch(r"[TC]\d+", panic.caller)
    assert 0 < panic.time < 300
    assert lines[0].text.startswith("Linux version")
    times = [line.time for line in lines if line.time > 1]  # the clock of early boot is another one
    assert times == sorted(times)


def test_hostile_text_is_bounded_and_harmless() -> None:
    lines = list(_lines(1.0, 4, "T1", b"\x1b[31mred\x1b[0m\nsecond\x00\n\n" + b"a" * 100_000))
    assert [line.text for line in lines[:2]] == ["red", "second"]
    assert len(lines[2].text) <= LINE


def test_a_record_that_wrapped_starts_at_the_ring_s_beginning() -> None:
    data = bytearray(64)
    data[8:13] = b"hello"
    assert _text(bytes(data), 6, 56, 64 + 16, 5) == b"hello"


def test_a_record_up_to_the_ring_s_end_does_not_wrap() -> None:
    data = bytearray(64)
    data[56:61] = b"hello"
    assert _text(bytes(data), 6, 48, 64, 5) == b"hello"


def test_a_record_without_text_has_none() -> None:
    assert _text(bytes(64), 6, 1, 1, 5) == b""


def test_a_length_beyond_its_block_is_cut() -> None:
    data = struct.pack("<Q", 7) + b"abcdefgh" + b"x" * 48
    assert _text(data, 6, 0, 16, 60_000) == b"abcdefgh"


def test_the_log_needs_neither_symbols_nor_types(vmcores: Vmcores) -> None:
    """A dump whose symbol table is damaged still tells what the kernel said: VMCOREINFO has the log's layout."""
    path = vmcores.get("nullptr").path
    whole = opened(path)
    bare = load(path)
    assert read_log(Opened(path, "elf", 0, bare, "x86_64", whole.info)) == read_log(whole)


def test_a_dump_that_says_nothing_of_its_log_is_told(vmcores: Vmcores) -> None:
    path = vmcores.get("nullptr").path
    with pytest.raises(LookupError):
        read_log(Opened(path, "elf", 0, load(path), "x86_64", {}))
