"""Loaded modules, and whose an address is."""

from __future__ import annotations

import subprocess

from collectors.vmcore.modules import AddressMap, Region, address_map, read_modules
from tests.vmcore.conftest import Dump, Vmcores
from tests.vmcore.opened import opened


def test_the_guest_s_modules_are_found_with_their_taints(dump: Dump) -> None:
    found = {module.name: module for module in read_modules(opened(dump.path))}
    assert found["qemu_fw_cfg"].taints == ""
    if name := dump.expected["module"]:
        assert found[name].taints == "OE"
        assert found[name].size > 4096


def test_a_module_s_build_id_is_that_of_its_file(vmcores: Vmcores) -> None:
    dump = vmcores.get("nullptr")
    found = next(module for module in read_modules(opened(dump.path)) if module.name == "ringstat")
    notes = subprocess.run(
        ["readelf", "-n", str(dump.modules / "ringstat.ko")], capture_output=True, text=True, check=True
    ).stdout
    assert found.build_id
    assert f"Build ID: {found.build_id}" in notes


def test_code_is_told_from_data(vmcores: Vmcores) -> None:
    dump = opened(vmcores.get("nullptr").path)
    found, prog = address_map(dump), dump.prog
    function = prog.symbol("ringstat_drain_channel").address
    assert (found.is_code(function), found.module(function)) == (True, "ringstat")
    assert found.is_code(prog.symbol("schedule").address)
    assert found.module(prog.symbol("schedule").address) == ""
    assert not found.is_code(prog.symbol("init_task").address)


def test_an_address_of_nobody_is_nobody_s() -> None:
    areas = AddressMap([Region(0x1000, 0x2000, "net", "code"), Region(0x3000, 0x4000, "net", "data")])
    assert [areas.find(address) is not None for address in (0, 0xFFF, 0x1000, 0x1FFF, 0x2000, 0x3FFF, 0x4000)] == [
        False, False, True, True, False, True, False,
    ]  # fmt: skip
    assert not areas.is_code(0x6B6B6B6B6B6B6B6B)
    assert not AddressMap([]).is_code(0)
