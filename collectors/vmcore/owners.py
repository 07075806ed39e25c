"""Whose a slab cache's objects are, told by what they point to.

A cache's name lies where the kernel merged several into one. A bounded sample of objects in use, spread over the
cache's slabs, is searched for pointers into modules and the kernel's own code and data: operations tables, callbacks,
timers' functions, list heads; where an object has none itself, the objects it points to are looked at. Beside that:
variables of modules that hold the cache or from which its objects are reached, and, where slab debugging is on, who
allocated them.
It cannot know owners of objects that hold no such pointer and that no variable reaches.
Cost: 3 to 6 ms a cache, however many objects it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from drgn import FaultError, Program
from numpy.typing import NDArray

from collectors.vmcore.arrays import among
from collectors.vmcore.modules import AddressMap, Region
from collectors.vmcore.pages import PAGE_SHIFT, PageMap, page_map
from collectors.vmcore.slabs import Cache, Slabs
from collectors.vmcore.words import words
from wardround.models.vmcore import Certainty

_MOST_SLABS = 24
_MOST_OBJECTS = 256
_MOST_OWNERS = 8
_MOST_DATA = 4 << 20  # bytes of a module's data that are searched
_MOST_POINTERS = 4000
_FOLLOWED = 24  # objects whose pointers are followed
_TARGET = 256  # bytes looked at behind a pointer
_TELLING = 0.03  # share of the sample that must hold a pointer to be named
_MOST_REACHED = 1500
_KERNELS_OWN = "__this_module"  # the module's own entry in the kernel's tables
_ENOUGH = 0.5  # share of the sample that must point to a module to be called its own

Table = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Owners:
    """What a sample of one cache told; as the members of `CacheUse` of these names."""

    sampled: int = 0
    owners: tuple[tuple[str, int], ...] = ()
    allocators: tuple[tuple[str, int], ...] = ()
    variables: tuple[str, ...] = ()
    module: str = ""
    certainty: Certainty = "derived"


@dataclass(frozen=True, slots=True)
class Holder:
    """A module's variable: `direct` where it holds the cache, else `pointer` is of one of its objects."""

    name: str
    module: str
    direct: bool
    pointer: int


class OwnerFinder:
    """Finds owners of a dump's caches."""

    def __init__(self, prog: Program, slabs: Slabs, areas: AddressMap) -> None:
        """:raises LookupError, FaultError: there is no map of page frames to be had"""
        self.prog, self._slabs, self._areas = prog, slabs, areas
        self._pages: PageMap = page_map(prog)
        self._of = self._pages.slabs(slabs.caches)
        self._starts = np.array([region.start for region in areas.regions], np.uint64)
        self._ends = np.array([region.end for region in areas.regions], np.uint64)
        self._variables = self._held()

    def owners(self, cache: Cache) -> Owners:
        """Return what is known of a cache's owners. :raises FaultError: its slabs cannot be read"""
        table, starts = self._sample(cache)
        found = self._pointing(table)
        allocators = self._allocators(cache, starts)
        variables = self.holders(cache)
        module = _of_most(allocators, len(starts)) or _of_most(found, len(table))
        certainty: Certainty = "derived"
        behind = Counter[tuple[str, str]]()
        if not module and not any(count >= _ENOUGH * len(table) for count in found.values()):
            behind = self._behind(table)
            module = _of_most(behind, min(len(table), _FOLLOWED)) or self.reaching(cache, variables)
            certainty = "inferred" if module else certainty
        if not module and cache.users == 1:
            module = next((one.module for one in variables if one.direct), "")
        ranked = sorted(found.items(), key=lambda one: (one[0][1] == "", -one[1], one[0]))
        ranked += [((f"{name}, one pointer away", its), count) for (name, its), count in _ranked(behind)[:2]]
        return Owners(
            sampled=len(table),
            owners=tuple((_named(*who), count) for who, count in ranked[:_MOST_OWNERS]),
            allocators=tuple((_named(*who), count) for who, count in _ranked(allocators)[:_MOST_OWNERS]),
            variables=tuple(dict.fromkeys(_named(one.name, one.module) for one in variables))[:_MOST_OWNERS],
            module=module,
            certainty=certainty,
        )

    # --- the sample ---

    def _sample(self, cache: Cache) -> tuple[Table, list[int]]:
        """Return objects in use, one row of words each, and their addresses."""
        width = cache.object_size // 8
        pages = self._of.get(cache.address, np.empty(0, np.uint64))
        step = max(1, len(pages) // _MOST_SLABS)
        chosen = pages[::step][:_MOST_SLABS].tolist()
        each = max(1, -(-_MOST_OBJECTS // max(len(chosen), 1)))
        rows: list[Table] = []
        starts: list[int] = []
        for slab in chosen if width else ():
            try:
                objects = self._slabs.objects(cache, slab)
                free, _ = self._slabs.free_in_slab(cache, slab)
                raw = self.prog.read(self._pages.address(slab), cache.pages << PAGE_SHIFT)
            except FaultError:
                continue
            base = self._pages.address(slab)
            used = [address for address in objects if address not in free][:each]
            starts += used
            rows += [np.frombuffer(raw, np.uint64, width, address - base) for address in used]
        empty = np.empty((0, width), np.uint64)
        return (np.stack(rows) if rows else empty), starts

    # --- pointers ---

    def _pointing(self, table: Table) -> Counter[tuple[str, str]]:
        """Count the rows that point to each symbol of the kernel's and modules' code and data."""
        row, column = np.nonzero(self._inside(table))
        values, counts = _counted(table[row, column])
        rows: dict[tuple[str, str], set[int]] = {}
        for index in np.argsort(-counts)[: 4 * _MOST_OWNERS].tolist():
            if counts[index] >= _TELLING * len(table):
                at = row[table[row, column] == values[index]]
                rows.setdefault(self._symbol(int(values[index])), set()).update(at.tolist())
        return Counter({who: len(at) for who, at in rows.items()})

    def _inside(self, values: Table) -> NDArray[np.bool_]:
        if not len(self._starts):
            return np.zeros(values.shape, np.bool_)
        at = np.searchsorted(self._starts, values, side="right") - 1
        return (at >= 0) & (values < self._ends[at])

    def _symbol(self, address: int) -> tuple[str, str]:
        """(symbol, module) of an address."""
        module = self._areas.module(address)
        try:
            symbol = self.prog.symbol(address)
        except LookupError:
            return hex(address), module
        return symbol.name, module

    def _behind(self, table: Table) -> Counter[tuple[str, str]]:
        """What the objects that these point to point to, of modules only."""
        found = Counter[tuple[str, str]]()
        memory = words(self.prog)
        for row in table[:: max(1, len(table) // _FOLLOWED)][:_FOLLOWED].tolist():
            told: set[tuple[str, str]] = set()
            for value in {value for value in row if value % 8 == 0 and self._pages.frame(value) is not None}:
                target = np.frombuffer(memory.some(value, _TARGET // 8), np.uint64)
                for inner in set(target[self._inside(target)].tolist()):
                    if (who := self._symbol(inner))[1]:
                        told.add(who)
            found.update(told)
        return found

    def _allocators(self, cache: Cache, starts: list[int]) -> Counter[tuple[str, str]]:
        found = Counter[tuple[str, str]]()
        for start in starts if cache.store_user else ():
            known = self._slabs.find(start)
            if known is not None and known.allocated_by:
                found[self._symbol(known.allocated_by)] += 1
        return found

    # --- variables of modules ---

    def _held(self) -> dict[int, tuple[Holder, ...]]:
        """Variables of modules that hold a cache or an object of one, by the cache's address; caches first."""
        caches = np.sort(np.fromiter(self._slabs.caches, np.uint64))
        low, high = np.uint64(self._pages.direct), np.uint64(self._pages.address(self._last()))
        found: dict[int, list[Holder]] = {}
        left = _MOST_POINTERS
        for region in self._areas.regions:
            if not region.module or region.part != "data":
                continue
            table = self._data(region)
            direct = among(table, caches)
            for index in np.flatnonzero(direct | ((table >= low) & (table < high)))[: max(0, left)].tolist():
                left -= 1
                value = int(table[index])
                owner = value if direct[index] else self._cache_at(value)
                name, module = self._symbol(region.start + 8 * index)
                if owner is not None and name != _KERNELS_OWN:
                    found.setdefault(owner, []).append(Holder(name, module, bool(direct[index]), value))
        return {address: tuple(sorted(held, key=lambda one: not one.direct)) for address, held in found.items()}

    def holders(self, cache: Cache) -> tuple[Holder, ...]:
        """Return the variables of modules that hold a cache or one of its objects."""
        return self._variables.get(cache.address, ())

    def reaching(self, cache: Cache, variables: Iterable[Holder]) -> str:
        """The module from whose variables most of a cache's objects are reached: lists, trees and chains of them."""
        wanted = min(_MOST_REACHED, _ENOUGH * self._slabs.usage(cache).active)
        starts: dict[str, list[int]] = {}
        for one in variables:
            if not one.direct:
                starts.setdefault(one.module, []).append(one.pointer)
        reached = {module: self._reached(cache, first) for module, first in starts.items()}
        return next((module for module, count in reached.items() if count >= max(wanted, 2)), "")

    def _reached(self, cache: Cache, starts: list[int]) -> int:
        """Count objects of a cache that are reached from some of it through objects of it."""
        seen: set[int] = set()
        waiting = list(starts)
        memory = words(self.prog)
        while waiting and len(seen) < _MOST_REACHED:
            address = waiting.pop()
            if self._cache_at(address) != cache.address:
                continue
            head = self._pages.head(address)
            assert head is not None
            first = self._pages.address(head) + cache.left_pad
            start = first + (address - first) // cache.size * cache.size
            if start not in seen:
                seen.add(start)
                held = memory.some(start, min(cache.object_size, _TARGET) // 8)
                waiting += [value for value in held if self._pages.frame(value) is not None]
        return len(seen)

    def _last(self) -> int:
        return self._pages.first + self._pages.frames * self._pages.size

    def _data(self, region: Region) -> Table:
        size = min(region.end - region.start, _MOST_DATA) // 8 * 8
        try:
            return np.frombuffer(self.prog.read(region.start, size), np.uint64)
        except FaultError:
            return np.frombuffer(words(self.prog).some(region.start, size // 8), np.uint64)

    def _cache_at(self, address: int) -> int | None:
        slab = self._pages.head(address)
        if slab is None:
            return None
        try:
            cache = words(self.prog).u64(slab + self._pages.cache_at)
        except FaultError:
            return None
        return cache if cache in self._slabs.caches else None


def _ranked(counts: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    """The most frequent first, equal ones by name: two readings of one dump must agree."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _named(name: str, module: str) -> str:
    return f"{name} [{module}]" if module else name


def _of_most(found: Counter[tuple[str, str]], sampled: int) -> str:
    """The module that most of a sample points to through one symbol."""
    for (_, module), count in found.most_common():
        if module and count >= _ENOUGH * sampled:
            return module
    return ""


def _counted(values: Table) -> tuple[Table, NDArray[np.int64]]:
    """Return each value once, and how often it stands there."""
    values = np.sort(values)
    first = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    return values[first], np.diff(first, append=len(values))
