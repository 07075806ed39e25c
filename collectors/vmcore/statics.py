"""Variables of modules, static ones too, by name: where they lie, what they hold, and their type where it is known.

Source: each module's own symbol table in memory (``CONFIG_KALLSYMS_ALL``), its writable sections; types from debug
information where the dump was opened with it, or from the module's BTF where that describes variables. Otherwise a
variable is a row of words. It cannot know variables that the compiler kept in registers.
Cost: 1 ms a module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from drgn import FaultError, FindObjectFlags, Program, Type

from collectors.vmcore.layout import each_node, layout
from collectors.vmcore.modbtf import ModuleTypes, module_types
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.words import words

MOST_MODULES = 4096
MOST_STATICS = 4096
_MOST_SYMBOLS = 200_000
_MOST_NAMES = 8 << 20
# what the build puts beside a module's own variables
_NOT_OWN = ("__this_module", "_note_", "__UNIQUE_ID", ".LC", "__func__", "__key.", "__already_done", "__mod_", "__ksym",
            "__kstrtab", "__param_", "__compound_literal", "descriptor.", "__warned", "_entry", "__print_")  # fmt: skip
# kinds of module memory that are written to (6.4): data and what is read-only after the module's init
_WRITABLE = (1, 3)
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("at", "<u8"), ("size", "<u8")]
)


@dataclass(frozen=True, slots=True)
class Static:
    """One variable. `size` is what its symbol tells."""

    name: str
    module: str
    address: int
    size: int
    type: Type | None = None


def read_statics(dump: Dump, modules: Collection[str]) -> tuple[Static, ...]:
    """Return the variables of these modules. A module whose tables are damaged is left out."""
    found: list[Static] = []
    types = module_types(dump, modules)
    for name, address in _modules(dump.prog, modules):
        try:
            found.extend(_of_module(dump.prog, name, address, types.get(name)))
        except DAMAGE as error:
            dump.lost[f"variables of {name}"] = f"its symbol table cannot be read ({error})"
        if len(found) >= MOST_STATICS:
            break
    return tuple(found[:MOST_STATICS])


def _modules(prog: Program, wanted: Collection[str]) -> Iterator[tuple[str, int]]:
    if not wanted:
        return
    module, memory = layout(prog, "struct module"), words(prog)
    for node in each_node(prog, prog.symbol("modules").address, MOST_MODULES):
        address = node - module.at("list")
        try:
            name = memory.text(address + module.at("name"), 56)
        except FaultError:
            continue
        if name in wanted:
            yield name, address


def _of_module(prog: Program, name: str, address: int, types: ModuleTypes | None) -> Iterator[Static]:
    memory, table = words(prog), layout(prog, "struct mod_kallsyms")
    writable = _writable(prog, address)
    symbols = memory.u64(address + layout(prog, "struct module").at("kallsyms"))
    count = min(memory.u32(symbols + table.at("num_symtab")), _MOST_SYMBOLS)
    rows = np.frombuffer(prog.read(memory.u64(symbols + table.at("symtab")), count * _SYMBOL.itemsize), _SYMBOL)
    rows = rows[rows["size"] > 0]
    inside = np.zeros(len(rows), np.bool_)
    for part in writable:
        inside |= (rows["at"] >= part.start) & (rows["at"] < part.stop)
    strings = memory.u64(symbols + table.at("strtab"))
    for row in rows[inside]:
        if row["name"] >= _MOST_NAMES:
            continue
        symbol = memory.text(strings + int(row["name"]), 128)
        if symbol and not symbol.startswith(_NOT_OWN):
            at = int(row["at"])
            yield Static(symbol, name, at, int(row["size"]), _type(prog, symbol, at, types))


def _writable(prog: Program, address: int) -> list[range]:
    module, memory = layout(prog, "struct module"), words(prog)
    if module.has("mem"):
        part = layout(prog, "struct module_memory")
        starts = [address + module.at("mem") + kind * part.size for kind in _WRITABLE]
        bases = [(memory.u64(at + part.at("base")), memory.u32(at + part.at("size"))) for at in starts]
        return [range(base, base + size) for base, size in bases if size]
    core, part = address + module.at("core_layout"), layout(prog, "struct module_layout")
    base, size = memory.u64(core + part.at("base")), memory.u32(core + part.at("size"))
    return [range(base + memory.u32(core + part.at("ro_size")), base + size)]


def _type(prog: Program, name: str, address: int, types: ModuleTypes | None) -> Type | None:
    """A variable's type; one of the same name elsewhere is told by its address."""
    try:
        known = prog.object(name, FindObjectFlags.VARIABLE)
        if known.address_ == address:
            return known.type_
    except DAMAGE:
        pass
    try:
        return types.variable(name) if types is not None else None
    except DAMAGE:
        return None
