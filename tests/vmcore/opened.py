"""Opens a dump for several tests in a row; only the last few stay in memory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from drgn import Architecture, Platform, Program

from collectors.vmcore.open import Dump, open_dump


@lru_cache(maxsize=2)
def opened(path: Path) -> Dump:
    return open_dump(path)


def program(memory: dict[int, bytes]) -> Program:
    """A program whose memory is made up: what no healthy dump holds."""
    prog = Program(Platform(Architecture.X86_64))
    for start, content in memory.items():

        def read(address: int, count: int, offset: int, physical: bool, content: bytes = content) -> bytes:
            return content[offset : offset + count]

        prog.add_memory_segment(start, len(content), read)
    return prog
