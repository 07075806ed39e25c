"""Where structures' members lie, probed once, and bounded walks over raw memory with them.

drgn's objects are convenient, but every attribute costs microseconds; the sections that look at thousands of slabs,
objects and list nodes read plain words (`words`) at offsets instead. An offset comes from the dump's own types; a
member that has had several names is asked for by all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from drgn import FaultError, Program, Type, TypeKind, offsetof, sizeof

from collectors.vmcore.words import words

MOST_NODES = 100_000


@dataclass
class Layout:
    """Member offsets of one structure."""

    type: Type
    _known: dict[str, int | None] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        return int(sizeof(self.type))

    def has(self, *paths: str) -> str | None:
        """Return the first of these members that exists."""
        return next((path for path in paths if self._offset(path) is not None), None)

    def at(self, *paths: str) -> int:
        """Return the offset of the first of these members that exists. :raises LookupError: none does"""
        for path in paths:
            if (offset := self._offset(path)) is not None:
                return offset
        raise LookupError(f"{self.type.type_name()} has no member {' or '.join(paths)}")

    def _offset(self, path: str) -> int | None:
        if path not in self._known:
            try:
                self._known[path] = offsetof(self.type, path)
            except (LookupError, TypeError):  # no such member; or the one before the dot is no structure
                self._known[path] = None
        return self._known[path]

    def bits(self, name: str) -> tuple[int, int]:
        """Return (bit offset, width) of a bit field, or of a plain member. :raises LookupError: there is none"""
        member = self.type.member(name)
        return member.bit_offset, member.bit_field_size or 8 * sizeof(member.type)

    def length(self, name: str) -> int:
        """Return the number of elements of an array member. :raises LookupError: no such array"""
        made = self.type.member(name).type
        while made.kind == TypeKind.TYPEDEF:
            made = made.type
        if made.kind != TypeKind.ARRAY or made.length is None:
            raise LookupError(f"{self.type.type_name()}.{name} is no array")
        return int(made.length)


def layout(prog: Program, name: str) -> Layout:
    """Return a structure's layout, made once for a program. :raises LookupError: the dump does not know the type"""
    made = prog.cache.setdefault("wardround_layouts", {})
    if name not in made:
        made[name] = Layout(prog.type(name))
    found: Layout = made[name]
    return found


def slab_layout(prog: Program) -> Layout:
    """Return the layout of a slab: before kernel 5.17 members of the page's structure. :raises LookupError: neither"""
    try:
        return layout(prog, "struct slab")
    except LookupError:
        return layout(prog, "struct page")


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """Return an enumeration's names and values; empty where the dump does not know it."""
    try:
        return {one.name: one.value for one in prog.type(f"enum {name}").enumerators or ()}
    except LookupError:
        return {}


def cpu_offsets(prog: Program) -> list[int]:
    """Offsets of the per-CPU areas of all possible CPUs: a panic takes CPUs offline, their data stays."""
    cached = prog.cache.get("wardround_cpu_offsets")
    if cached is None:
        count = prog["nr_cpu_ids"].value_()
        start = prog.symbol("__per_cpu_offset").address
        mask = prog["__cpu_possible_mask"].bits
        possible = [cpu for cpu in range(min(count, 8192)) if mask[cpu // 64].value_() >> cpu % 64 & 1]
        cached = prog.cache["wardround_cpu_offsets"] = [words(prog).u64(start + 8 * cpu) for cpu in possible]
    found: list[int] = cached
    return found


def each_node(prog: Program, head: int, most: int = MOST_NODES) -> Iterator[int]:
    """Yield the nodes of a list after its head; ends at the head, a null, damage, a circle without the head, `most`."""
    seen, memory = {head, 0}, words(prog)
    try:
        node = memory.u64(head)
        while node not in seen and len(seen) < most + 2:
            yield node
            seen.add(node)
            node = memory.u64(node)
    except FaultError:
        return


def page_size(info: dict[str, str]) -> int:
    """Return the page size that VMCOREINFO tells, 4 KiB where it does not."""
    text = info.get("PAGESIZE", "")
    return int(text) if text.isdecimal() and 0 < int(text) <= 1 << 20 else 4096
