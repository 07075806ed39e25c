"""Who holds the memory, ranked."""

from __future__ import annotations

import pytest

from collectors.vmcore.oom import holders, read_oom
from collectors.vmcore.vmalloc import read_vmalloc
from tests.vmcore.conftest import SERIES, Vmcores
from tests.vmcore.opened import opened
from wardround.models.vmcore import CacheUse, MemoryUse

MIB = 1 << 20


def cache(name: str, size: int, **more: object) -> CacheUse:
    return CacheUse(name, 0, 64, size // 64, size // 64, size, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("series", SERIES)
def test_a_leaking_module_holds_most(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("oom", series)
    memory = read_oom(opened(dump.path), {})
    first = memory.holders[0]
    assert (first.kind, first.name, first.module) == ("slab", dump.expected["cache"], dump.expected["module"])
    assert first.share > 0.5
    assert first.certainty == "derived"
    assert all(f"[{dump.expected['module']}]" in function for function in first.functions)
    assert len(memory.caches) > 100


def test_holders_are_ranked_across_kinds() -> None:
    memory = MemoryUse(
        1000 * MIB,
        (("anonymous", 500 * MIB), ("slab_unreclaimable", 260 * MIB), ("vmalloc", 80 * MIB), ("unaccounted", 90 * MIB)),
        largest_tasks=((0xAA, 400 * MIB), (0xBB, MIB)),
    )
    caches = [cache("kmalloc-64", 200 * MIB, merged=1, aliases=("rule",), module="fw", sampled=9), cache("tiny", MIB)]
    found = holders(memory, caches, [("fw_load", "fw", 80 * MIB)], {0xAA: "db (pid 7)"})
    assert [(one.kind, one.name, one.module) for one in found] == [
        ("anonymous", "anonymous", ""),
        ("process", "0xaa", ""),
        ("slab", "rule", "fw"),
        ("unaccounted", "unaccounted", ""),
        ("vmalloc", "fw_load", "fw"),
        ("slab", "kmalloc-large", ""),
    ]
    assert found[1].statement == "process db (pid 7): 400.0 MiB, 40%"
    assert found[2].share == 0.2
    assert "nearly none free" in found[2].statement


def test_an_empty_account_has_no_holders() -> None:
    assert holders(MemoryUse(0), (), (), {}) == ()


@pytest.mark.parametrize("series", SERIES)
def test_vmalloc_s_callers_add_up_to_its_counter(vmcores: Vmcores, series: str) -> None:
    dump = opened(vmcores.get("abba", series).path)
    found = read_vmalloc(dump)
    pages = dump.prog.read_u64(dump.prog.symbol("nr_vmalloc_pages").address)
    assert sum(size for _, _, size in found) == pytest.approx(pages * 4096, rel=0.1)
    assert all(size > 0 and function for function, _, size in found)


def test_a_cache_of_no_module_is_told_by_what_its_objects_point_to_or_hold_alike() -> None:
    memory = MemoryUse(1000 * MIB)
    sockets = cache("UDP", 200 * MIB, sampled=100, owners=(("sock_def_readable", 99), ("late", 5)), alike="same")
    letters = cache("kmalloc-512", 100 * MIB, sampled=100, alike="99 of 100 sampled hold the text “MAIL” at 0x8")
    first, second = holders(memory, [sockets, letters], (), {})
    assert ", most point to sock_def_readable" in first.statement
    assert "late" not in first.statement
    assert ", alike: 99 of 100 sampled hold the text “MAIL” at 0x8" in second.statement
