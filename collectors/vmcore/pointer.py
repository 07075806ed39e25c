"""What a kernel address is in this dump: code, data, a stack or its guard page, a vmalloc area, a slab object.

Source: the modules' ranges, the tasks' stacks, the kernel's tree of vmalloc areas, the slab page an address lies on.
What the value alone says (null, poison, an error code) comes first: `addresses`. It cannot know what lay there before.
Measured cost: 1 ms for an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drgn import Object
from drgn.helpers.linux.mm import find_vmap_area

from collectors.vmcore import addresses
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import DAMAGE, Dump
from collectors.vmcore.slabs import slabs
from collectors.vmcore.stackmem import Stacks
from collectors.vmcore.tasks import cpus, task_addresses
from collectors.vmcore.walk import PAGE
from collectors.vmcore.words import words
from wardround.text import clean, clean_bytes

_NO_GUARD = 0x40
_VALUES = ("null", "error", "freed", "poison", "non_canonical", "user")


class Pointers:
    """Explains addresses of one dump."""

    def __init__(self, dump: Dump, code: AddressMap) -> None:
        self.dump, self.code = dump, code
        self._stacks: Stacks | None = None

    def explain(self, address: int, base: int | None = None) -> str:
        """Say in words what an address is, formed from the register `base`; empty where nothing is known."""
        if addresses.classify(address) in _VALUES:
            return addresses.meaning(address, base)
        for look in (self._symbol, self._stack, self._area, self.slab):
            try:
                if told := look(address):
                    return told
            except (KeyError, *DAMAGE):
                continue
        return ""

    def freed(self, registers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Yield (register, what it points to) for those that hold the address of a freed slab object."""
        for name, value in registers.items():
            if name[0] == "R" and name not in ("RIP", "RSP") and addresses.classify(value) == "kernel":
                try:
                    told = self.slab(value)
                except (KeyError, *DAMAGE):
                    continue
                if told.startswith("a freed"):
                    yield name, told

    def _symbol(self, address: int) -> str:
        region = self.code.find(address)
        if region is None:
            return ""
        symbol = self.dump.prog.symbol(address)
        name = f"{clean(symbol.name, 128)}+{address - symbol.address:#x}"
        where = f"module {region.module}" if region.module else "the kernel"
        return f"{region.part} of {where} ({name})"

    def _stack(self, address: int) -> str:
        if self._stacks is None:
            self._stacks = Stacks.of(self.dump.prog, task_addresses(self.dump, cpus(self.dump)))
        for task, base in self._stacks.base.items():
            if base - PAGE <= address < base + self._stacks.size:
                where = "the guard page below the stack" if address < base else "on the stack"
                return f"{where} of {self._who(task)}"
        return ""

    def _who(self, task: int) -> str:
        prog = self.dump.prog
        found = Object(prog, "struct task_struct *", value=task)
        return f"{clean_bytes(found.comm.string_(), 32)} (pid {found.pid.value_()})"

    def _area(self, address: int) -> str:
        """What of vmalloc's space an address is. The page after each area is never mapped, to catch what runs over."""
        start, end = self._vmalloc()
        if not start <= address < end:
            return ""
        area = find_vmap_area(self.dump.prog, address)
        if area:
            guarded = bool(area.vm) and not area.vm.flags.value_() & _NO_GUARD
            last = area.va_end.value_()
            size = last - area.va_start.value_() - (PAGE if guarded else 0)
            whose = f"an area of {size} bytes{self._mapper(area)}"
            if guarded and address >= last - PAGE:
                return f"the guard page after {whose}"
            return f"vmalloc memory, in {whose}"
        before = find_vmap_area(self.dump.prog, address - PAGE)
        if before:
            return f"vmalloc space that is not mapped, next to an area{self._mapper(before)}"
        return "vmalloc space that is not mapped (never, or freed)"

    def _vmalloc(self) -> tuple[int, int]:
        memory, prog = words(self.dump.prog), self.dump.prog
        return (
            memory.u64(prog.symbol("vmalloc_base").address),
            memory.u64(prog.symbol("vmemmap_base").address),
        )

    def _mapper(self, area: Object) -> str:
        try:
            caller = self.dump.prog.symbol(area.vm.caller.value_()).name
        except DAMAGE:
            return ""
        return f" that {clean(caller, 128)} mapped"

    def slab(self, address: int) -> str:
        """Say which slab object an address lies in, whether it was freed and by whom; empty where it is none.

        :raises FaultError, LookupError: the allocator's own data is damaged
        """
        found = slabs(self.dump.prog).find(address)
        if found is None:
            return ""
        state = "an object" if found.free is None else "a freed object" if found.free else "an object in use"
        told = f"{state} of the slab cache {clean(found.cache.name, 64)}"
        if address != found.address:
            told += f", {address - found.address:#x} into it"
        by, how = (found.freed_by, "freed") if found.free else (found.allocated_by, "allocated")
        return told + (f", {how} by {self._name(by)}" if by else "")

    def _name(self, code: int) -> str:
        try:
            name = clean(self.dump.prog.symbol(code).name, 128)
        except LookupError:
            return f"{code:#x}"
        module = self.code.module(code)
        return f"{name} [{module}]" if module else name
