"""What lies at an address, and what is wrong with it: a module's variable, or a slab object in use or free.

An object is searched for saturated reference counts, broken list entries, poison, and pointers to free objects; where
slab debugging is on, its red zones are checked and who allocated and freed it is told. It cannot tell a stale pointer
that nobody will use again from one that is used: it says what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drgn import FaultError, Program

from collectors.vmcore import listlinks, typed
from collectors.vmcore.addresses import classify, meaning
from collectors.vmcore.modules import AddressMap
from collectors.vmcore.open import DAMAGE
from collectors.vmcore.slabs import SlabObject, Slabs, slabs
from collectors.vmcore.statics import Static
from collectors.vmcore.words import words
from wardround.models.vmcore import Anomaly

MOST_WORDS = 512
_MOST_LOOKUPS = 2000
_ZONE_FREE, _ZONE_USED = 0xBB, 0xCC


@dataclass(frozen=True, slots=True)
class Found:
    """A variable or slab object: `name` as the kernel calls it, its beginning and size."""

    name: str
    address: int
    size: int
    module: str = ""
    free: bool = False
    slab: SlabObject | None = None


class Objects:
    """Looks up and checks objects of one dump. Look-ups in the slab are counted and end at a bound."""

    def __init__(self, prog: Program, areas: AddressMap, statics: Sequence[Static]) -> None:
        self.prog, self.words, self._areas = prog, words(prog), areas
        self._statics = sorted(statics, key=lambda one: one.address)
        self._left = _MOST_LOOKUPS
        self._slabs: Slabs | None = None
        try:
            self._slabs = slabs(prog)
        except DAMAGE:
            self._left = 0

    def at(self, address: int) -> Found | None:
        """Return the variable or slab object that an address lies in."""
        for one in self._statics:
            if one.address <= address < one.address + one.size:
                return Found(one.name, one.address, one.size, one.module)
        found = self._slab(address)
        if found is None:
            return None
        name = f"object {found.address:#x} of {found.cache.name}"
        return Found(name, found.address, found.cache.object_size, free=bool(found.free), slab=found)

    def _slab(self, address: int) -> SlabObject | None:
        if self._left <= 0 or self._slabs is None or address >> 56 != 0xFF:
            return None
        self._left -= 1
        return self._slabs.find(address)

    # --- what is wrong ---

    def contents(self, place: Found, held: Sequence[int]) -> Iterator[Anomaly]:
        """Yield what is wrong in an object's words."""
        if place.free:
            yield from self._redzone(place)
            return
        for at in typed.saturated(held, place.address, place.size):
            yield self._anomaly("refcount_saturated", place, at, typed.BROKEN, {"value": typed.SATURATED - (1 << 32)})
        yield from self._poison(place, held)
        yield from self._lists(place, held)
        if place.slab is None:
            yield from self._stale(place, held)
        yield from self._redzone(place)

    def freed(self, place: Found, how: str) -> Iterator[Anomaly]:
        """Yield that an object is free though something points into it."""
        if place.slab is not None and place.free:
            statement = f"{how} {place.name}, which is free{self._history(place.slab)}"
            yield Anomaly(
                "freed_object", place.name, statement, f"slab {place.slab.slab:#x}", {"object": place.address}
            )

    def deleted(self, place: Found, address: int, source: str) -> Iterator[Anomaly]:
        """Yield that an address is that of a list entry already taken off its list."""
        try:
            next_, prev = self.words.u64(address), self.words.u64(address + 8)
        except FaultError:
            return
        if listlinks.is_deleted(next_, prev):
            told = f"is a list entry already deleted, and {source} points to it"
            yield self._anomaly("list_deleted", place, address, told, {}, sure=False)

    def _anomaly(
        self, kind: str, place: Found, at: int, told: str, values: dict[str, int | float], sure: bool = True
    ) -> Anomaly:
        offset = at - place.address
        subject = f"{place.name}+{offset:#x}" if offset else place.name
        whose = f" [{place.module}]" if place.module else ""
        return Anomaly(
            kind=kind,
            subject=subject,
            statement=f"{subject}{whose} {told}",
            source=f"{at:#x}",
            values=values,
            module=place.module,
            certainty="derived" if sure else "inferred",
        )

    def _poison(self, place: Found, held: Sequence[int]) -> Iterator[Anomaly]:
        """Poison in an object in use. List poison is an entry's normal end and told elsewhere; where the allocator
        fills its objects, parts that their users have not written yet still hold the fill."""
        if place.slab is not None and (place.slab.cache.poison or place.slab.cache.red_zone):
            return
        for index, word in enumerate(held):
            if classify(word) in ("freed", "poison") and word >> 48 != 0xDEAD:
                at = place.address + 8 * index
                yield self._anomaly("poison", place, at, f"holds {meaning(word)}", {"value": word}, sure=False)
                return

    def _lists(self, place: Found, held: Sequence[int]) -> Iterator[Anomaly]:
        for at, next_, prev in listlinks.heads(held, place.address):
            broken = listlinks.check(self.words, at, next_, prev)
            if broken is None and place.slab is None and self._is_whole(at, next_, prev):
                broken = listlinks.walk(self.words, at)
            if broken is not None:
                yield self._anomaly(
                    "list_corruption", place, at, f"is in a broken list: {broken.statement}",
                    {"entry": broken.entry, "target": broken.target},
                )  # fmt: skip

    def _is_whole(self, at: int, next_: int, prev: int) -> bool:
        if next_ == at:
            return False
        try:
            return self.words.u64(next_ + 8) == at and self.words.u64(prev) == at
        except FaultError:
            return False

    def _stale(self, place: Found, held: Sequence[int]) -> Iterator[Anomaly]:
        """Pointers of a variable to objects that are free."""
        for index, word in enumerate(held):
            found = self._slab(word) if word % 8 == 0 else None
            if found is not None and found.free:
                told = f"points to object {found.address:#x} of {found.cache.name}, which is free{self._history(found)}"
                at = place.address + 8 * index
                yield self._anomaly("freed_object", place, at, told, {"object": found.address})

    def _history(self, found: SlabObject) -> str:
        """Who allocated and who freed it, where the allocator stored that."""
        parts = []
        for verb, by in (("allocated", found.allocated_by), ("freed", found.freed_by)):
            if by:
                try:
                    name = self.prog.symbol(by).name
                except LookupError:
                    continue
                module = self._areas.module(by)
                parts.append(f"{verb} by {name} [{module}]" if module else f"{verb} by {name}")
        return f" ({', '.join(parts)})" if parts else ""

    def _redzone(self, place: Found) -> Iterator[Anomaly]:
        """Bytes behind an object that slab debugging fills: whoever wrote beyond the object's end changed them."""
        found = place.slab
        if found is None or not found.cache.red_zone or found.free is None:
            return
        fill = _ZONE_FREE if found.free else _ZONE_USED
        start, end = found.address + found.cache.object_size, found.address + found.cache.inuse
        try:
            zone = self.words.read(start, end - start) if end > start else b""
        except FaultError:
            return
        if zone.strip(bytes([fill])):
            told = f"was written beyond its end{self._history(found)}"
            yield self._anomaly("redzone", place, start, told, {"bytes": len(zone.replace(bytes([fill]), b""))})
