"""Which functions of modules can have taken a kind of memory, told by their code; for leaks that name no owner.

Objects of a general cache (kmalloc-512) or bare pages say nothing of who took them where they hold no pointer. But code
that takes memory of a fixed size names the slot of `kmalloc_caches` that holds the cache, and all other code calls the
allocator by one of a few names. Looked at are modules from outside the kernel's tree alone.
It cannot know whether the code ran, nor the kernel's own functions that take such memory: what it tells is inferred,
and a hint where several modules do. Cost: 1 ms for 100 KiB of code; looked at only when memory ran out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from drgn import Program

from collectors.vmcore.machinecode import Function
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.words import words
from wardround.text import clean

MOST_TAKERS = 8
_MOST_CODE = 4 << 20  # bytes of one module
_TABLE = "kmalloc_caches"
_MOST_SLOTS = 4096
# Where the size is known only when the code runs, or the memory comes from a helper that takes it.
_ANY_SIZE = (
    "__kmalloc", "__kmalloc_node", "__kmalloc_node_track_caller", "kmalloc_large", "kvmalloc_node", "__kvmalloc_node",
    "krealloc", "kmemdup", "kmemdup_nul", "kstrdup", "kstrdup_const", "kstrndup", "kasprintf", "kvasprintf",
    "memdup_user", "memdup_user_nul",
)  # fmt: skip
_PAGES = (
    "alloc_pages", "__alloc_pages", "alloc_pages_node", "__get_free_pages", "get_zeroed_page", "get_free_pages",
    "alloc_pages_exact", "__folio_alloc", "folio_alloc", "__alloc_pages_bulk", "alloc_pages_bulk", "alloc_pages_mpol",
    "page_frag_alloc_align", "__page_frag_alloc_align", "dma_alloc_attrs", "kmalloc_large",
)  # fmt: skip


def of_cache(prog: Program, areas: AddressMap, cache: int, modules: Collection[str]) -> tuple[str, ...]:
    """Return the functions of `modules` that take from a kmalloc cache: of its very size, else of any size.

    Empty for a cache that is none of kmalloc's: its own name tells whose it is.
    """
    slots = _slots(prog, cache)
    if not slots:
        return ()
    return _using(prog, areas, slots, modules) or _using(prog, areas, _addresses(prog, _ANY_SIZE), modules)


def of_pages(prog: Program, areas: AddressMap, modules: Collection[str]) -> tuple[str, ...]:
    """Return the functions of `modules` that take pages straight from the page allocator."""
    return _using(prog, areas, _addresses(prog, _PAGES), modules)


def _slots(prog: Program, cache: int) -> list[int]:
    """Addresses of the words of the table that hold the cache."""
    try:
        table = prog.symbol(_TABLE)
        held = words(prog).some(table.address, min(table.size // 8, _MOST_SLOTS))
    except DAMAGE:
        return []
    return [table.address + 8 * index for index, word in enumerate(held) if word == cache]


def _addresses(prog: Program, names: Sequence[str]) -> list[int]:
    """Addresses of functions, under the names that they have since memory allocation is profiled (6.10) too."""
    found = []
    for name in (*names, *(f"{name}_noprof" for name in names)):
        try:
            found.append(prog.symbol(name).address)
        except LookupError:
            continue
    return found


def _using(prog: Program, areas: AddressMap, wanted: Sequence[int], modules: Collection[str]) -> tuple[str, ...]:
    """Return the functions whose code names one of the addresses, as ``function [module]``."""
    found: dict[str, None] = {}
    for region in areas.regions:
        if region.module in modules and region.part == "code" and wanted:
            for place in _places(prog, region.start, min(region.end - region.start, _MOST_CODE), wanted):
                try:
                    found[f"{clean(prog.symbol(place).name, 256)} [{region.module}]"] = None
                except LookupError:
                    continue
    return tuple(found)[:MOST_TAKERS]


def _places(prog: Program, start: int, size: int, wanted: Sequence[int]) -> Iterator[int]:
    """Addresses in a region where its code names a wanted address."""
    try:
        text = Function(start, prog.read(start, size))
    except DAMAGE:
        return
    named = text.named()
    for index in np.flatnonzero(np.isin(named, np.array(wanted, np.uint64))).tolist():
        yield start + index % (len(named) // 2)
