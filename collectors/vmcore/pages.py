"""The kernel's map of page frames: from an address to its page's structure, and the slabs of every cache.

Sources: ``vmemmap_base`` and ``page_offset_base`` (x86-64), the zones' spans, ``struct slab`` over ``struct page``.
Slabs are found in the map as columns of numbers, not page by page: 6 ms for the map of 128 MiB. Of a large machine
evenly spaced parts of the map are looked at, 2 GiB of memory in all. It cannot see through a map that the dump lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from drgn import FaultError, Program
from numpy.typing import NDArray

from collectors.vmcore.arrays import among
from collectors.vmcore.layout import layout, slab_layout
from collectors.vmcore.memory import zones
from collectors.vmcore.words import words

PAGE_SHIFT = 12
PAGE = 1 << PAGE_SHIFT
_CHUNK = 32_768  # pages whose structures are read at once: 2 MiB
_MOST_CHUNKS = 16


@dataclass(frozen=True)
class PageMap:
    """Where the map lies: `first` is the structure of frame 0, `direct` the address frame 0 is mapped at."""

    prog: Program
    first: int
    direct: int
    frames: int
    size: int
    cache_at: int
    counters_at: int
    head_at: int

    def frame(self, address: int) -> int | None:
        """The frame of an address in the direct map."""
        frame = (address - self.direct) >> PAGE_SHIFT
        return frame if 0 <= frame < self.frames else None

    def address(self, page: int) -> int:
        """The address that a page's contents are mapped at."""
        return self.direct + ((page - self.first) // self.size << PAGE_SHIFT)

    def head(self, address: int) -> int | None:
        """The structure of the (compound) page that holds an address of the direct map; None for other addresses."""
        frame = self.frame(address)
        if frame is None:
            return None
        page = self.first + frame * self.size
        try:
            head = words(self.prog).u64(page + self.head_at)
        except FaultError:
            return None
        if not head & 1:
            return page
        head -= 1
        inside = self.first <= head < page and (head - self.first) % self.size == 0
        return head if inside else None

    def slabs(self, caches: Iterable[int]) -> dict[int, NDArray[np.uint64]]:
        """Return the structures of each cache's slabs, of the parts of the map looked at."""
        wanted = np.sort(np.fromiter(caches, np.uint64))
        found: dict[int, list[NDArray[np.uint64]]] = {}
        for start, table in self._chunks():
            column = table[:, self.cache_at // 8]
            rows = np.flatnonzero(among(column, wanted))
            counters = table[rows, self.counters_at // 8]
            used, objects = counters & 0xFFFF, counters >> 16 & 0x7FFF
            rows = rows[(objects > 0) & (used <= objects)]
            for cache in sorted(set(column[rows].tolist())):
                at = rows[column[rows] == cache].astype(np.uint64)
                found.setdefault(cache, []).append(np.uint64(start) + at * np.uint64(self.size))
        return {cache: np.concatenate(parts) for cache, parts in found.items()}

    def _chunks(self) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Yield parts of the map: the address of the first structure, and one row of words for each."""
        starts = [first for span in self._spans() for first in range(span.start, span.stop, _CHUNK)]
        step = -(-len(starts) // _MOST_CHUNKS) or 1
        ends = {first: min(first + _CHUNK, span.stop) for span in self._spans() for first in starts if first in span}
        for first in starts[::step]:
            yield from self._read(first, ends[first])

    def _read(self, first: int, end: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """Read a part; where some of it is missing, its halves."""
        address = self.first + first * self.size
        try:
            raw = self.prog.read(address, (end - first) * self.size)
        except FaultError:
            if end - first > 256:
                middle = (first + end) // 2
                yield from self._read(first, middle)
                yield from self._read(middle, end)
            return
        yield address, np.frombuffer(raw, np.uint64).reshape(-1, self.size // 8)

    def _spans(self) -> list[range]:
        zone, memory = layout(self.prog, "struct zone"), words(self.prog)
        found = []
        for address in zones(self.prog):
            start = memory.u64(address + zone.at("zone_start_pfn"))
            count = min(memory.u64(address + zone.at("spanned_pages")), self.frames)
            found.append(range(start, start + count))
        return found


def page_map(prog: Program) -> PageMap:
    """Return a program's page map, made once. :raises LookupError, FaultError: not to be had (another architecture)"""
    made = prog.cache.get("wardround_page_map")
    if made is None:
        memory, page, slab = words(prog), layout(prog, "struct page"), slab_layout(prog)
        if page.size % 8:
            raise LookupError("the page structure is no row of words")
        made = prog.cache["wardround_page_map"] = PageMap(
            prog,
            first=memory.u64(prog.symbol("vmemmap_base").address),
            direct=memory.u64(prog.symbol("page_offset_base").address),
            frames=memory.u64(prog.symbol("max_pfn").address),
            size=page.size,
            cache_at=slab.at("slab_cache"),
            counters_at=slab.at("counters"),
            head_at=page.at("compound_head", "compound_info"),
        )
    found: PageMap = made
    return found
