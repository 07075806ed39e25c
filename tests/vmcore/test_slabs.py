"""The slab allocator from inside: counts, free lists, the object an address lies in."""

from __future__ import annotations

import pytest
from drgn import Object
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_usage

from collectors.vmcore.memory import read_memory
from collectors.vmcore.pages import PAGE, page_map
from collectors.vmcore.slabs import slabs
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.opened import opened


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("scenario", ["oom", "uaf", "abba"])
def test_counts_equal_the_kernel_s_and_the_page_map_s(vmcores: Vmcores, series: str, scenario: str) -> None:
    """Three sources for the number of slabs: the caches' counters, the map of page frames, and another program.

    Objects in use are fewer than drgn's: after a panic it no longer sees what stopped CPUs keep free."""
    dump = opened(vmcores.get(scenario, series).path)
    allocator = slabs(dump.prog)
    by_page = page_map(dump.prog).slabs(allocator.caches)
    caches = list(for_each_slab_cache(dump.prog))
    assert {cache.value_() for cache in caches} == set(allocator.caches)
    for cache in caches:
        usage = allocator.usage(allocator.caches[cache.value_()])
        other = slab_cache_usage(cache)
        assert (usage.slabs, usage.total) == (other.num_slabs, other.num_objs)
        assert usage.slabs == len(by_page.get(cache.value_(), ()))
        assert 0 <= usage.active <= other.active_objs


@pytest.mark.parametrize("series", SERIES)
def test_caches_add_up_to_what_memory_says_of_slab(vmcores: Vmcores, series: str) -> None:
    dump = opened(vmcores.get("oom", series).path)
    allocator, parts = slabs(dump.prog), dict(read_memory(dump).parts)
    held = {True: 0, False: 0}
    for cache in allocator.caches.values():
        held[cache.reclaimable] += allocator.usage(cache).slabs * cache.pages * PAGE
    assert held[True] == parts["slab_reclaimable"]
    assert 0 <= parts["slab_unreclaimable"] - held[False] < 2 << 20  # large allocations have no cache


@pytest.mark.parametrize("series", SERIES)
def test_a_task_lies_in_an_object_in_use(vmcores: Vmcores, series: str) -> None:
    dump = opened(vmcores.get("abba", series).path)
    task = read_memory(dump).largest_tasks[0][0]
    found = slabs(dump.prog).find(task + 100)
    assert found is not None
    assert (found.cache.name, found.address, found.free) == ("task_struct", task, False)
    assert slabs(dump.prog).find(dump.prog.symbol("init_task").address) is None
    assert slabs(dump.prog).find(0x1234) is None


@pytest.mark.parametrize("series", SERIES)
def test_free_objects_are_told_with_who_freed_them(vmcores: Vmcores, series: str) -> None:
    """The scenario's pool still holds the connection that it freed; slab debugging stored the callers."""
    dump = opened(vmcores.get("uaf", series).path)
    prog = dump.prog
    slots = Object(prog, "void *[4]", address=prog.symbol("pool_slots").address)
    found = [slabs(prog).find(slot.value_()) for slot in slots]
    assert [one.free for one in found if one is not None] == [True, False, False, False]
    assert found[0] is not None
    assert found[0].freed_by is not None
    assert prog.symbol(found[0].freed_by).name == "pool_conn_release"
