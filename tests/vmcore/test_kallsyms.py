"""The kernel's symbol table: decoded as drgn's own decoder does, honest about damage."""

from __future__ import annotations

import struct

import pytest
from drgn import Program
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from collectors.vmcore import kallsyms
from collectors.vmcore.kallsyms import KallsymsError
from collectors.vmcore.open import load as load_dump
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.opened import opened, program

BASE = 0xFFFFFFFF81000000
TOKENS = [*(bytes([n]) if 32 < n < 127 else b"" for n in range(253)), b"schedule", b"_lock", b"Tdo_"]


def _table(symbols: list[tuple[int, bytes]], offsets: list[int]) -> tuple[Program, dict[str, str]]:
    """A kernel's memory that holds nothing but the table; each symbol as (ignored, its tokens)."""
    names = b"".join(bytes([len(tokens)]) + tokens for _, tokens in symbols)
    names += bytes(-len(names) % 8) + struct.pack("<II", 0, 0)
    texts, places = b"", []
    for token in TOKENS:
        places.append(len(texts))
        texts += token + b"\0"
    parts = {
        "offsets": struct.pack(f"<{len(offsets)}i", *offsets),
        "relative_base": struct.pack("<Q", BASE),
        "num_syms": struct.pack("<I", len(symbols)),
        "names": names,
        "token_table": texts + bytes(64),
        "token_index": struct.pack("<256H", *places),
    }
    places_of = (0xFFFFFFFF82000000 + (number << 16) for number in range(len(parts)))
    memory = {place: part.ljust(1 << 16, b"\0") for place, part in zip(places_of, parts.values(), strict=True)}
    info = {f"SYMBOL(kallsyms_{name})": f"{at:x}" for name, at in zip(parts, memory, strict=True)}
    return program(memory), info


def _image(offsets: list[int], names: list[bytes], markers_off: int = 0) -> tuple[Program, dict[str, str]]:
    """A kernel's image with the table behind its text, in the order of old kernels."""
    packed, markers = b"", []
    for number, tokens in enumerate(names):
        if number % 256 == 0:
            markers.append(len(packed) + (markers_off if number else 0))
        packed += bytes([len(tokens)]) + tokens
    texts, places = b"", []
    for token in TOKENS:
        places.append(len(texts))
        texts += token + b"\0"
    parts = [
        b"\x90" * 4096,
        struct.pack(f"<{len(offsets)}i", *offsets),
        struct.pack("<QQ", BASE, len(names)),
        packed,
        struct.pack(f"<{len(markers)}I", *markers),
        texts,
        struct.pack("<256H", *places),
        bytes(8192),
    ]
    return program({BASE: b"".join(part + bytes(-len(part) % 8) for part in parts)}), {"SYMBOL(_stext)": f"{BASE:x}"}


def _read(*names: bytes, offsets: list[int]) -> kallsyms.Kallsyms:
    prog, info = _table([(0, name) for name in names], offsets)
    prog.register_symbol_finder("kallsyms", kallsyms.load(prog, info).find, enable_index=0)
    return kallsyms.load(prog, info)


def test_tokens_become_names_addresses_and_sizes() -> None:
    table = _read(b"A__per_cpu_start", b"T\xfd", b"\xff\xfe", b"D_end", offsets=[0, -1, -65, -129])
    (found,) = table.find(Program(), "schedule", None, True)
    assert (found.address, found.size, found.kind.name, found.binding.name) == (BASE, 64, "FUNC", "GLOBAL")
    assert [s.name for s in table.find(Program(), None, BASE + 70, True)] == ["do__lock"]
    assert [s.name for s in table.find(Program(), None, 0, True)] == ["__per_cpu_start"]
    assert table.find(Program(), "nowhere", None, True) == []


def test_of_symbols_at_one_address_the_first_is_named_as_the_kernel_does() -> None:
    table = _read(b"Tone", b"Ttwo", b"Tthree", offsets=[-1, -1, -17])
    assert [s.name for s in table.find(Program(), None, BASE + 3, True)] == ["one"]
    assert [s.name for s in table.find(Program(), None, BASE + 3, False)] == ["one", "two"]


def test_a_kernel_without_absolute_symbols_counts_up_from_its_base() -> None:
    table = _read(b"T_stext", b"T_end", offsets=[0, 4096])
    assert table.find(Program(), "_end", None, True)[0].address == BASE + 4096


def test_offsets_without_a_base_count_from_their_own_place() -> None:
    """As kernel 7.0 has them."""
    prog, info = _table([(0, b"Tone"), (0, b"Ttwo")], [-0x1000, 0x2000])
    del info["SYMBOL(kallsyms_relative_base)"]
    start = int(info["SYMBOL(kallsyms_offsets)"], 16)
    table = kallsyms.load(prog, info)
    assert [table.find(prog, name, None, True)[0].address for name in ("one", "two")] == [
        start - 0x1000,
        start + 4 + 0x2000,
    ]


def test_a_table_that_vmcoreinfo_does_not_tell_of_is_found_in_memory() -> None:
    """As before kernel 6.0: behind the text, found by the word that the offsets count from."""
    symbols = [(-1 - 16 * number, b"T\xfd") for number in range(1200)]
    prog, info = _image([offset for offset, _ in symbols], [tokens for _, tokens in symbols])
    table = kallsyms.load(prog, info)
    assert not table.note
    assert [found.address for found in table.find(prog, "schedule", None, False)] == [
        BASE + 16 * number for number in range(1200)
    ]


def test_what_only_looks_like_a_table_is_none() -> None:
    prog, info = _image([-1] * 1200, [b"T\xfd"] * 1200, markers_off=4)
    with pytest.raises(KallsymsError, match="not found in memory"):
        kallsyms.load(prog, info)


def test_names_cut_short_are_told_and_those_before_stand() -> None:
    prog, info = _table([(0, b"Tone"), (0, b"Ttwo")], [-1, -17])
    at = int(info["SYMBOL(kallsyms_num_syms)"], 16)
    prog.add_memory_segment(at, 4, lambda *_: struct.pack("<I", 900))
    offsets = int(info["SYMBOL(kallsyms_offsets)"], 16)
    prog.add_memory_segment(offsets, 3600, lambda address, count, offset, physical: bytes(count))
    table = kallsyms.load(prog, info)
    assert "2 of 900 names" in table.note
    assert table.find(prog, "two", None, True)


@pytest.mark.parametrize("lacking", ["names", "num_syms", "token_table", "token_index", "offsets"])
def test_a_table_that_is_not_told_of_is_refused(lacking: str) -> None:
    prog, info = _table([(0, b"Tone")], [-1])
    with pytest.raises(KallsymsError):
        kallsyms.load(prog, {key: value for key, value in info.items() if lacking not in key})


@pytest.mark.parametrize("series", SERIES)
def test_a_real_kernel_s_table_is_what_drgn_reads(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("abba", series)
    prog = load_dump(dump.path)
    table = kallsyms.load(prog, opened(dump.path).info)
    prog.register_symbol_finder("drgn", load_vmlinux_kallsyms(prog), enable_index=0)
    theirs = {(symbol.name, symbol.address) for symbol in prog.symbols()}
    ours = table.find(prog, None, None, False)
    assert {(symbol.name, symbol.address) for symbol in ours} == theirs
    assert len(ours) > 50_000
    assert not table.note
