"""Finds the kernel's image and all of memory without page tables, which a cut dump may lack: x86-64 maps both as they
lie.

A large machine has its page tables at the end of memory, which is what a cut takes away. The image is told by
VMCOREINFO's `phys_base`, the mapping of all memory by `page_offset_base`, a variable in the image. Modules, stacks and
`struct page` lie in areas that only page tables tell. Every read passes through Python: only for files that are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from drgn import FaultError, Program

from collectors.vmcore.words import words

_IMAGE, _IMAGE_SIZE = 0xFFFFFFFF80000000, "536870912"  # bytes; twice as much where the kernel may move
_MOST_IMAGE, _MOST_MEMORY = 1 << 30, 1 << 46


def image(prog: Program, info: Mapping[str, str]) -> None:
    """Map the kernel's image, where VMCOREINFO tells where it lies."""
    with suppress(ValueError):
        size = int(info.get("NUMBER(KERNEL_IMAGE_SIZE)", _IMAGE_SIZE))
        _map(prog, _IMAGE, min(size, _MOST_IMAGE), int(info.get("NUMBER(phys_base)", "")))


def memory(prog: Program) -> None:
    """Map all of memory, where the variable that tells its place is in the dump."""
    try:
        start, stop = (words(prog).u64(prog.symbol(name).address) for name in ("page_offset_base", "vmalloc_base"))
    except (FaultError, LookupError):
        return
    if start < stop:
        _map(prog, start, min(stop - start, _MOST_MEMORY), 0)


def _map(prog: Program, start: int, size: int, physical_start: int) -> None:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        content: bytes = prog.read(physical_start + offset, count, physical=True)
        return content

    prog.add_memory_segment(start, size, read)
