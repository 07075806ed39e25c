"""The kernel's own symbol table, decoded out of the dump: names of its functions and variables by address and by name.

Source: kallsyms, whose parts VMCOREINFO locates since kernel 6.0; before, they are searched for (`kallsyms_search`).
Names are lists of tokens, each of which stands for some letters; the first letter of a name is its type (nm's). Sizes
are not stored: a symbol ends where the next begins.
Decoded here because drgn takes four times as long. Measured cost: 0.09 s and 5 MiB for 87,000 symbols (6.1),
0.13 s and 9 MiB for 155,000 (6.12).
It cannot know a module's symbols; those are drgn's to find (`load_module_kallsyms`).
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
from drgn import Program, Symbol, SymbolBinding, SymbolKind
from numpy.typing import NDArray

from collectors.vmcore import kallsyms_names, kallsyms_search
from collectors.vmcore.kallsyms_names import MARKED, MOST_SYMBOLS, TOKENS
from collectors.vmcore.walk import read_lossy

_MOST_NAMES = 128 << 20
_BLOCK = 16_384  # symbols decoded at a time
_LAST_SIZE = 4096  # of the last symbol, after which none follows
_SYMBOL = re.compile(r"SYMBOL\(kallsyms_(\w+)\)")


class KallsymsError(ValueError):
    """The table is not there, or damaged."""


class Names:
    """All names in one text, found by number or, by their checksums, by name: 7 MiB where strings would take 25."""

    def __init__(self, text: bytes, starts: NDArray[np.int64], sums: NDArray[np.uint32]) -> None:
        self._text, self._starts = text, starts
        self._order = np.argsort(sums, kind="stable")
        self._sums = sums[self._order]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> bytes:
        start = int(self._starts[index])
        return self._text[start : self._text.find(b"\0", start)]

    def find(self, name: bytes) -> list[int]:
        """Return the numbers of a name, lowest first."""
        wanted = np.uint32(crc32(name))
        first, last = np.searchsorted(self._sums, wanted), np.searchsorted(self._sums, wanted, "right")
        return [index for index in self._order[first:last].tolist() if self[index] == name]


class Kallsyms:
    """The table. `find` is what drgn's symbol finders are; `note` says what is wrong with it."""

    def __init__(self, names: Names, types: bytes, addresses: NDArray[np.uint64], note: str = "") -> None:
        self.note = note
        order = np.argsort(addresses, kind="stable")
        self._sorted = array("Q", addresses[order].tobytes())
        self._order = order.astype(np.int32)
        self._names, self._types, self._addresses = names, types, addresses

    def find(self, prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        """Return the symbols of a name, or those of an address; all where neither is asked for."""
        if name is not None:
            found = self._names.find(name.encode("ascii", "replace"))
            return [self._symbol(index) for index in (found[:1] if one else found)]
        if address is None:
            return [self._symbol(index) for index in range(len(self._names))]
        return self._around(address, one)

    def _around(self, address: int, one: bool) -> Sequence[Symbol]:
        at = bisect_right(self._sorted, address) - 1
        if at < 0:
            return ()
        start = self._sorted[at]
        if address >= start + self._size(at):
            return ()
        if one:
            return (self._symbol(int(self._order[self._first(at)])),)
        return [self._symbol(int(self._order[place])) for place in range(self._first(at), at + 1)]

    def _first(self, at: int) -> int:
        """The first of the symbols of the same address."""
        while at and self._sorted[at - 1] == self._sorted[at]:
            at -= 1
        return at

    def _size(self, at: int) -> int:
        """From a symbol (its place by address) to the next of another address."""
        start = self._sorted[at]
        after = bisect_right(self._sorted, start)
        return self._sorted[after] - start if after < len(self._sorted) else _LAST_SIZE

    def _symbol(self, index: int) -> Symbol:
        address = int(self._addresses[index])
        letter = chr(self._types[index])
        size = self._size(bisect_right(self._sorted, address) - 1)
        return Symbol(self._names[index].decode("ascii", "replace"), address, size, _binding(letter), _kind(letter))


def _binding(letter: str) -> SymbolBinding:
    if letter in "vVwW":
        return SymbolBinding.WEAK
    return SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.LOCAL


def _kind(letter: str) -> SymbolKind:
    if letter in "tT":
        return SymbolKind.FUNC
    return SymbolKind.OBJECT if letter in "vVsSrRbBgGnNcCdD" else SymbolKind.UNKNOWN


def load(prog: Program, info: Mapping[str, str]) -> Kallsyms:
    """Decode the table of a dump whose VMCOREINFO is `info`.

    :raises KallsymsError: the kernel does not tell where it is, or it is damaged
    :raises FaultError: it lies in memory that is missing
    """
    at = _located(prog, info)
    try:
        parts = at["names"], at["num_syms"], at["token_table"], at["token_index"]
    except KeyError:
        raise KallsymsError("VMCOREINFO tells only in part where kallsyms is") from None
    (count,) = struct.unpack("<I", prog.read(parts[1], 4))
    if not 0 < count <= MOST_SYMBOLS:
        raise KallsymsError(f"kallsyms of {count} symbols is none")
    end = min((each for each in at.values() if each > parts[0]), default=0)
    size = end - parts[0] if end else count * 32
    if not count < size <= _MOST_NAMES:
        raise KallsymsError(f"kallsyms' names of {size} bytes are none")
    raw, _ = read_lossy(prog, parts[0], size)
    starts, lengths, sound = _places(raw, count)
    names, types = _names(raw, starts, lengths, _tokens(prog, parts[2], parts[3]))
    note = "" if sound else f"{len(names)} of {count} names were found, and some may be wrong: their table is damaged"
    return Kallsyms(names, types, _addresses(prog, at, len(names)), note)


def _located(prog: Program, info: Mapping[str, str]) -> dict[str, int]:
    """Return the addresses of the table's parts, as VMCOREINFO tells them or, of an older kernel, as they are found."""
    found = {match[1]: value for key, value in info.items() if (match := _SYMBOL.fullmatch(key))}
    try:
        if found:
            return {name: int(value, 16) for name, value in found.items()}
        text = int(info["SYMBOL(_stext)"], 16)
    except (KeyError, ValueError):
        raise KallsymsError("VMCOREINFO tells neither where kallsyms is nor where the kernel is") from None
    for base, count in kallsyms_search.candidates(prog, text):
        if (parts := kallsyms_search.parts(prog, base, count)) is not None:
            return parts
    raise KallsymsError("VMCOREINFO does not tell where kallsyms is (kernel 6.0), and it was not found in memory")


def _tokens(prog: Program, table: int, index: int) -> list[bytes]:
    places = struct.unpack(f"<{TOKENS}H", prog.read(index, 2 * TOKENS))
    content = prog.read(table, places[-1] + 64)
    return [content[place : content.find(b"\0", place)] for place in places]


def _places(raw: bytes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Return where each name's tokens start, how many they are, and whether that is sure.

    A name is a length (of two bytes where the first has its top bit set) and so many tokens. Behind the last the kernel
    keeps the place of every 256th name: where these do not agree a length is wrong, and what follows it too.
    """
    begins, at = kallsyms_names.begins(raw, count)
    if not begins:
        raise KallsymsError("kallsyms' names are missing")
    marked = struct.pack("<II", 0, begins[MARKED]) if len(begins) > MARKED else b""
    aligned = any(raw[-(-at // step) * step :].startswith(marked) for step in (8, 4))
    starts = np.frombuffer(begins, np.int64)
    lengths, wide = kallsyms_names.lengths(np.frombuffer(raw, np.uint8), starts)
    return starts + 1 + wide, lengths.astype(np.int64), len(begins) == count and aligned


def _names(
    raw: bytes, begins: NDArray[np.int64], counts: NDArray[np.int64], tokens: list[bytes]
) -> tuple[Names, bytes]:
    """Return (names, their type letters): the first letter of each name's first token is its type."""
    # Every token a second time, as a name's first: without its type letter, behind a separator.
    pieces = [*tokens, *(b"\0" + token[1:] for token in tokens)]
    letters = np.frombuffer(b"".join(token[:1] or b"?" for token in tokens), np.uint8)
    table = np.frombuffer(b"".join(pieces), np.uint8)
    sizes = np.array([len(piece) for piece in pieces], np.int32)
    places = (np.cumsum(sizes) - sizes).astype(np.int32)
    stream = np.frombuffer(raw, np.uint8)
    texts: list[bytes] = []
    starts: list[NDArray[np.int64]] = []
    sums = array("I")
    size = 0
    for first in range(0, len(begins), _BLOCK):
        start, many = begins[first : first + _BLOCK], counts[first : first + _BLOCK]
        heads = np.cumsum(many) - many
        used = stream[np.repeat(start - heads, many) + np.arange(int(many.sum()))].astype(np.int32)
        used[heads] += TOKENS
        length = sizes[used]
        ends = np.cumsum(length, dtype=np.int32)
        text = table[np.repeat(places[used] - (ends - length), length) + np.arange(int(ends[-1]), dtype=np.int32)]
        texts.append(text.tobytes())
        starts.append(size + 1 + (ends - length)[heads].astype(np.int64))
        sums.extend(map(crc32, texts[-1].split(b"\0")[1:]))
        size += len(texts[-1])
    if len(sums) != len(begins):
        raise KallsymsError("kallsyms' tokens are damaged")
    names = Names(b"".join([*texts, b"\0"]), np.concatenate(starts), np.frombuffer(sums, np.uint32))
    return names, letters[stream[begins]].tobytes()


def _addresses(prog: Program, at: Mapping[str, int], count: int) -> NDArray[np.uint64]:
    """Addresses, or offsets of 32 bits. Those without a base count from their own place (kernel 7.0). With one: below
    zero they count on from it and the others are absolute (per-CPU ones); a kernel without absolute ones has none below
    zero, and all count on from the base."""
    if "addresses" in at:
        return np.frombuffer(prog.read(at["addresses"], 8 * count), np.uint64)
    try:
        offsets = np.frombuffer(prog.read(at["offsets"], 4 * count), np.int32).astype(np.int64)
    except KeyError:
        raise KallsymsError("VMCOREINFO does not tell where kallsyms' addresses are") from None
    if "relative_base" not in at:
        places = np.uint64(at["offsets"]) + np.arange(count, dtype=np.uint64) * np.uint64(4)
        return places + offsets.astype(np.uint64)  # wraps around where the offset is negative
    (base,) = struct.unpack("<Q", prog.read(at["relative_base"], 8))
    if (offsets < 0).mean() < 0.5:
        return (offsets & 0xFFFFFFFF).astype(np.uint64) + np.uint64(base)
    absolute = offsets.astype(np.uint64)
    return np.where(offsets >= 0, absolute, np.uint64(base) - np.uint64(1) - absolute)
