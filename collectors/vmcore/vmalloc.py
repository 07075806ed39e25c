"""Who holds memory of vmalloc: bytes by the function that asked for it.

Source: the kernel's areas (``vmap_area_list``, since 6.9 the lists of ``vmap_nodes``) and their ``vm_struct.caller``.
It cannot know callers of areas that drivers map themselves from pages they own. Cost: 2 µs an area.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from drgn import FaultError, Program

from collectors.vmcore.layout import each_node, layout, page_size
from collectors.vmcore.open import Dump
from collectors.vmcore.words import words

MOST_AREAS = 50_000
_MOST_NODES = 1024


def read_vmalloc(dump: Dump) -> tuple[tuple[str, str, int], ...]:
    """Return (function, module or empty, bytes), most first. :raises LookupError, FaultError: no areas to be found"""
    prog, page = dump.prog, page_size(dump.info)
    area, vm, memory = layout(prog, "struct vmap_area"), layout(prog, "struct vm_struct"), words(prog)
    found = Counter[int]()
    for entry in _areas(prog):
        try:
            held = memory.u64(entry - area.at("list") + area.at("vm"))
            if held and (pages := memory.u32(held + vm.at("nr_pages"))):
                found[memory.u64(held + vm.at("caller"))] += pages * page
        except FaultError:
            continue
    named = Counter[tuple[str, str]]()
    for caller, size in found.items():
        named[_symbol(prog, caller)] += size
    return tuple((function, module, size) for (function, module), size in named.most_common())


def _areas(prog: Program) -> Iterator[int]:
    """Yield the list nodes of all areas in use."""
    try:
        yield from each_node(prog, prog.symbol("vmap_area_list").address, MOST_AREAS)
        return
    except LookupError:
        node, memory = layout(prog, "struct vmap_node"), words(prog)
    first = memory.u64(prog.symbol("vmap_nodes").address)
    for index in range(min(memory.u32(prog.symbol("nr_vmap_nodes").address), _MOST_NODES)):
        yield from each_node(prog, first + index * node.size + node.at("busy.head"), MOST_AREAS)


def _symbol(prog: Program, address: int) -> tuple[str, str]:
    try:
        name = prog.symbol(address).name
    except LookupError:
        return hex(address), ""
    try:
        module = prog.module(address)
    except LookupError:
        return name, ""
    return name, "" if module.name == "kernel" else module.name
