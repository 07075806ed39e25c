"""Slab caches with their owners: leaks are told by what the objects point to, not by a cache's name."""

from __future__ import annotations

import numpy as np
import pytest

from collectors.vmcore.modules import address_map
from collectors.vmcore.owners import OwnerFinder, alike
from collectors.vmcore.slab import read_slab
from collectors.vmcore.slabs import slabs
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.opened import opened


@pytest.mark.parametrize("series", SERIES)
def test_a_leak_is_its_module_s_even_where_the_cache_was_merged(vmcores: Vmcores, series: str) -> None:
    """Pitfall: the kernel merged the module's cache into one of like size, whose name says nothing."""
    dump = vmcores.get("oom", series)
    first = read_slab(opened(dump.path))[0]
    assert first.module == dump.expected["module"]
    assert dump.expected["cache"] in (first.name, *first.aliases[:1])
    assert (first.merged == 0) == (first.name == dump.expected["cache"])
    assert first.active > 0.95 * first.total > 100_000
    assert first.sampled >= 200
    assert dict(first.owners)["sess_expire [sesscache]"] == first.sampled
    assert set(first.variables) == {"sess_entry_cache [sesscache]", "sess_open_list [sesscache]"}


@pytest.mark.parametrize("series", SERIES)
def test_a_leak_without_pointers_is_told_by_the_variables_that_reach_it(vmcores: Vmcores, series: str) -> None:
    dump = opened(vmcores.get("oom", series).path)
    allocator = slabs(dump.prog)
    finder = OwnerFinder(dump.prog, allocator, address_map(dump))
    largest = max(allocator.caches.values(), key=lambda cache: allocator.usage(cache).slabs)
    held = finder.holders(largest)
    assert finder.reaching(largest, held) == "sesscache"
    assert finder.reaching(largest, [one for one in held if one.direct]) == ""


@pytest.mark.parametrize("series", SERIES)
def test_the_kernel_s_own_caches_are_no_module_s(vmcores: Vmcores, series: str) -> None:
    """The scenario's module holds pointers to tasks: that does not make all tasks its own."""
    caches = read_slab(opened(vmcores.get("abba", series).path))
    assert len(caches) > 100
    assert [cache.name for cache in caches if cache.module] == []


@pytest.mark.parametrize("series", SERIES)
def test_slab_debugging_names_who_allocated(vmcores: Vmcores, series: str) -> None:
    sampled = [cache for cache in read_slab(opened(vmcores.get("uaf", series).path)) if cache.sampled]
    allocators = {cache.name: cache.allocators[0][0] for cache in sampled if cache.allocators}
    assert allocators["kernfs_node_cache"].startswith("__kernfs_new_node")


def test_what_nearly_all_objects_hold_is_told_texts_first() -> None:
    objects = np.zeros((20, 4), np.uint64)
    objects[:, 0] = np.arange(20)
    objects[:, 1] = 0x4D41494C
    objects[:19, 2] = int.from_bytes(b"the mail", "little")
    assert alike(objects) == "19 of 20 sampled hold the text “the mail” at 0x10"
    assert alike(objects[:, :2]) == "20 of 20 sampled hold 0x4d41494c at 0x8"
    assert alike(objects[:, :1]) == alike(objects[:1]) == ""
