"""Loaded modules of a dump, and whose code or data an address is.

Source: the list `modules`, read with the dump's own types; a module's parts lie in `mem[]` (kernel 6.4) or in
`core_layout` and `init_layout`. It cannot know code that is not the kernel's or a module's (BPF programs, trampolines).
Measured cost: 1 ms for 3 modules, 20 µs a further one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from drgn import Object, Type

from collectors.vmcore import taint
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.walk import nodes
from wardround.models.vmcore import ModuleInfo
from wardround.text import clean_bytes

MOST_MODULES = 4096
_UNFORMED = 3  # being loaded: its parts are not set up yet

Part = Literal["code", "data"]


@dataclass(frozen=True, slots=True)
class Region:
    """One range of addresses of a module, or of the kernel where `module` is empty."""

    start: int
    end: int
    module: str
    part: Part


class AddressMap:
    """Finds the module, and whether it is code, by address."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = sorted(regions, key=lambda region: region.start)
        self._starts = [region.start for region in self.regions]

    def find(self, address: int) -> Region | None:
        at = bisect_right(self._starts, address) - 1
        return self.regions[at] if at >= 0 and address < self.regions[at].end else None

    def is_code(self, address: int) -> bool:
        region = self.find(address)
        return region is not None and region.part == "code"

    def module(self, address: int) -> str:
        """Return the module's name; empty for the kernel's own and for unknown addresses."""
        region = self.find(address)
        return region.module if region is not None else ""


def read_modules(dump: Dump) -> tuple[ModuleInfo, ...]:
    """Return the loaded modules in the kernel's order, newest first. What could not be read is told in `dump.lost`."""
    build_ids = {module.name: module.build_id for module in dump.prog.modules() if module.build_id}
    found: list[ModuleInfo] = []
    for module in _modules(dump):
        try:
            name = _name(module)
            parts = [region for region in _regions(module, name) if region.end > region.start]
            build_id = build_ids.get(name)
            found.append(
                ModuleInfo(
                    name=name,
                    address=min((region.start for region in parts if region.part == "code"), default=0),
                    size=sum(region.end - region.start for region in parts),
                    taints=taint.letters(module.taints.value_()),
                    build_id=build_id.hex() if build_id else "",
                )
            )
        except DAMAGE as error:
            dump.lost["a module"] = f"its entry at {module.value_():#x} is damaged ({error})"
    return tuple(found)


def address_map(dump: Dump) -> AddressMap:
    """Return the code and data ranges of the kernel and of every module that can be read."""
    regions = list(_kernel(dump))
    for module in _modules(dump):
        try:
            regions.extend(_regions(module, _name(module)))
        except DAMAGE as error:
            dump.lost["a module"] = f"its entry at {module.value_():#x} is damaged ({error})"
    return AddressMap([region for region in regions if region.end > region.start])


def _modules(dump: Dump) -> Iterator[Object]:
    """Yield every `struct module *` whose state can be read."""
    prog = dump.prog
    try:
        head, type_ = prog["modules"].address_, prog.type("struct module")
        offset = type_.member("list").offset
    except (KeyError, *DAMAGE) as error:
        dump.lost["modules"] = f"the list of modules cannot be read ({error})"
        return
    pointer: Type = prog.pointer_type(type_)
    for node in nodes(prog, head or 0, MOST_MODULES, "modules"):
        module = Object(prog, pointer, value=node - offset)
        try:
            if module.state.value_() == _UNFORMED:
                continue
        except DAMAGE:
            dump.lost["a module"] = f"its entry at {node - offset:#x} is damaged"
            continue
        yield module


def _name(module: Object) -> str:
    return clean_bytes(module.name.string_(), 64)


def _kernel(dump: Dump) -> Iterator[Region]:
    parts: tuple[tuple[str, str, Part], ...] = (
        ("_stext", "_etext", "code"),
        ("_sinittext", "_einittext", "code"),
        ("_sdata", "_edata", "data"),
        ("__bss_start", "__bss_stop", "data"),
    )
    for first, last, part in parts:
        try:
            yield Region(dump.prog.symbol(first).address, dump.prog.symbol(last).address, "", part)
        except LookupError:
            continue


def _regions(module: Object, name: str) -> Iterator[Region]:
    """Yield a module's ranges. Those of its initialisation are empty once that is over."""
    type_ = module.type_.type
    if type_.has_member("mem"):
        code = {_constant(module, "MOD_TEXT", 0), _constant(module, "MOD_INIT_TEXT", 4)}
        for index, memory in enumerate(module.mem):
            base, size = memory.base.value_(), memory.size.value_()
            if base and size:
                yield Region(base, base + size, name, "code" if index in code else "data")
        return
    for layout in (module.core_layout, module.init_layout):
        base, size, text = layout.base.value_(), layout.size.value_(), layout.text_size.value_()
        if base and size:
            yield Region(base, base + text, name, "code")
            yield Region(base + text, base + size, name, "data")


def _constant(module: Object, name: str, otherwise: int) -> int:
    try:
        return int(module.prog_.constant(name).value_())
    except LookupError:
        return otherwise
