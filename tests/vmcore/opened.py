"""Opens a dump for several tests in a row; only the last few stay in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from drgn import Architecture, Platform, Program, Symbol, SymbolBinding, SymbolKind

from collectors.vmcore.open import Dump, open_dump


@lru_cache(maxsize=2)
def opened(path: Path) -> Dump:
    return open_dump(path)


def program(memory: dict[int, bytes], functions: Mapping[str, tuple[int, int]] | None = None) -> Program:
    """A program whose memory is made up: what no healthy dump holds. `functions` are symbols: (start, size) by name."""
    prog = Program(Platform(Architecture.X86_64))
    for start, content in memory.items():

        def read(address: int, count: int, offset: int, physical: bool, content: bytes = content) -> bytes:
            return content[offset : offset + count]

        prog.add_memory_segment(start, len(content), read)

    def find(prog: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
        return [
            Symbol(symbol, start, size, SymbolBinding.GLOBAL, SymbolKind.FUNC)
            for symbol, (start, size) in (functions or {}).items()
            if name == symbol or (address is not None and start <= address < start + size)
        ]

    prog.register_symbol_finder("made", find, enable_index=0)
    return prog
