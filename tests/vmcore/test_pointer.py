"""What addresses are in a real dump."""

from __future__ import annotations

import pytest

from collectors.vmcore.modules import address_map
from collectors.vmcore.pointer import Pointers
from collectors.vmcore.tasks import cpus, task_addresses
from tests.vmcore.conftest import Vmcores
from tests.vmcore.opened import opened

PAGE = 4096


@pytest.fixture(params=["6.1", "6.12"])
def pointers(request: pytest.FixtureRequest, vmcores: Vmcores) -> Pointers:
    dump = opened(vmcores.get("uaf", request.param).path)
    return Pointers(dump, address_map(dump))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (0x0, "a null pointer"),
        (0x18, "a null pointer plus 0x18"),
        (0xFFFFFFFFFFFFFFF4, "-ENOMEM"),
        (0x6B6B6B6B6B6B6B73, "freed slab memory"),
        (0xDEAD000000000100, "already deleted"),
        (0xDEAD000000000122, "already deleted"),
        (0x00007F0000001000, "user space"),
        (0x4141414141414141, "no valid address"),
    ],
)
def test_values_that_tell_by_themselves(pointers: Pointers, address: int, told: str) -> None:
    assert told in pointers.explain(address)


def test_code_and_data_are_named(pointers: Pointers) -> None:
    prog = pointers.dump.prog
    assert pointers.explain(prog.symbol("schedule").address + 3) == "code of the kernel (schedule+0x3)"
    assert "code of module connpool (pool_reap_work" in pointers.explain(prog.symbol("pool_reap_work").address)
    assert "data of the kernel (init_task" in pointers.explain(prog.symbol("init_task").address)


def test_a_stack_and_its_guard_page_are_their_task_s(pointers: Pointers) -> None:
    dump = pointers.dump
    task = list(task_addresses(dump, cpus(dump)))[-1]
    base = dump.prog.read_u64(task + dump.prog.type("struct task_struct").member("stack").offset)
    comm = pointers.dump.prog.read_c_string(task + dump.prog.type("struct task_struct").member("comm").offset).decode()
    assert pointers.explain(base + 64).startswith(f"on the stack of {comm}")
    assert pointers.explain(base - 8).startswith(f"the guard page below the stack of {comm}")


def test_vmalloc_space_is_told_from_its_holes(pointers: Pointers) -> None:
    prog = pointers.dump.prog
    start = prog.read_u64(prog.symbol("vmalloc_base").address)
    end = prog.read_u64(prog.symbol("vmemmap_base").address)
    assert "not mapped" in pointers.explain((start + end) // 2 & ~(PAGE - 1))


def test_a_task_is_an_object_in_use_of_its_cache(pointers: Pointers) -> None:
    dump = pointers.dump
    task = list(task_addresses(dump, cpus(dump)))[-1]
    assert pointers.explain(task + 16).startswith("an object in use of the slab cache task_struct, 0x10 into it")
