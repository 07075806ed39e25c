"""Types of modules: each has BTF of its own on top of the kernel's.

Source: ``btf_idr``, where the kernel keeps the BTF of modules it loaded (the module's own copy is freed after loading).
A module built without the kernel's image at hand has none. It cannot know types of variables where the build tools
describe per-CPU ones only. Cost: 1 ms a module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from drgn import FaultError, Object, Type, TypeKind
from drgn.helpers.linux.idr import idr_for_each

from collectors.vmcore.btf import Btf, BtfFinder
from collectors.vmcore.layout import layout
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.words import words

_MOST_BTF = 16 << 20
_MOST_ENTRIES = 8192
_ENUM, _ENUM64, _VAR = 6, 19, 14


@dataclass(frozen=True)
class ModuleTypes:
    """One module's types."""

    btf: Btf
    finder: BtfFinder

    def variable(self, name: str) -> Type | None:
        """Return the type of a variable that the BTF describes."""
        for type_id in self.btf.find(name, (_VAR,)):
            return self.finder.type(self.btf.record(type_id).size)
        return None

    def enumerations(self) -> Iterator[Type]:
        """Yield the named enumerations that are the module's own."""
        for type_id in range(self.btf.first_id, self.btf.next_id):
            record = self.btf.record(type_id)
            if record.kind in (_ENUM, _ENUM64) and record.name:
                made = self.finder.type(type_id)
                if made.kind == TypeKind.ENUM:
                    yield made


def module_types(dump: Dump, modules: Collection[str]) -> dict[str, ModuleTypes]:
    """Return the types of those modules that have any; one that is damaged is left out."""
    found: dict[str, ModuleTypes] = {}
    if not modules or dump.btf is None:
        return found
    for name, blob in _blobs(dump, modules):
        try:
            btf = Btf.parse(blob, dump.btf)
        except DAMAGE:
            continue
        found[name] = ModuleTypes(btf, BtfFinder(dump.prog, btf))
    return found


def _blobs(dump: Dump, modules: Collection[str]) -> Iterator[tuple[str, bytes]]:
    prog, memory = dump.prog, words(dump.prog)
    try:
        btf = layout(prog, "struct btf")
        idr = Object(prog, "struct idr", address=prog.symbol("btf_idr").address)
        entries = [entry.value_() for _, entry in islice(idr_for_each(idr.address_of_()), _MOST_ENTRIES)]
    except DAMAGE:
        return
    for entry in entries:
        try:
            name = memory.text(entry + btf.at("name"), 56)
            size = memory.u32(entry + btf.at("data_size"))
            if name in modules and 0 < size <= _MOST_BTF:
                yield name, prog.read(memory.u64(entry + btf.at("data")), size)
        except (LookupError, FaultError):
            continue
