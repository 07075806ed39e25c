"""Debug information beside a dump: module files give lines and locals; what belongs to another build is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from collectors.vmcore.debuginfo import build_id
from collectors.vmcore.read import read_crash
from tests.vmcore.conftest import SERIES, Vmcores
from wardround.errors import UserError


def _with_build_id(path: Path, number: bytes) -> Path:
    """An ELF file that holds nothing but a build id."""
    note = struct.pack("<III", 4, len(number), 3) + b"GNU\0" + number
    section = struct.pack("<IIQQQQIIQQ", 0, 7, 0, 0, 64, len(note), 0, 0, 4, 0)
    at = 64 + len(note)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 1, 0)
    path.write_bytes(head + note + section)
    return path


def test_a_build_id_is_read_out_of_an_elf_file(tmp_path: Path) -> None:
    assert build_id(_with_build_id(tmp_path / "vmlinux", bytes(range(20)))) == bytes(range(20)).hex()
    (tmp_path / "text").write_text("no ELF")
    assert build_id(tmp_path / "text") == ""


def test_the_vmlinux_of_another_kernel_is_refused_by_name(vmcores: Vmcores, tmp_path: Path) -> None:
    dump = vmcores.get("nullptr")
    other = _with_build_id(tmp_path / "vmlinux-other", b"\xab" * 20)
    with pytest.raises(UserError, match="belongs to another kernel") as refused:
        read_crash(dump.path, vmlinux=other)
    assert "ab" * 20 in refused.value.why
    assert dump.kernel in refused.value.why
    assert str(other) in refused.value.what


@pytest.mark.parametrize("name", ["text", "missing"])
def test_what_is_no_vmlinux_is_refused(vmcores: Vmcores, tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("no ELF")
    with pytest.raises(UserError, match=name):
        read_crash(vmcores.get("nullptr").path, vmlinux=tmp_path / name)


@pytest.mark.parametrize("series", SERIES)
def test_module_files_give_lines_and_locals(vmcores: Vmcores, series: str) -> None:
    dump = vmcores.get("nullptr", series)
    found = read_crash(dump.path, modules=dump.modules)
    assert found.header.tier == "modules"
    assert found.panic is not None
    frames = [frame for frame in found.panic.stack if frame.module == dump.expected["module"]]
    assert frames
    assert all(frame.file.endswith("ringstat.c") and frame.line for frame in frames)
    assert any(frame.variables for frame in frames)
    assert found.panic.function == dump.expected["function"]


def test_module_files_of_another_kernel_are_of_no_use_and_that_is_told(vmcores: Vmcores) -> None:
    dump, other = vmcores.get("nullptr", "6.1"), vmcores.get("nullptr", "6.12")
    found = read_crash(dump.path, modules=other.modules)
    assert found.header.tier == "dump"
    assert any("build id" in each.reason for each in found.skipped)
    assert found.panic is not None
    assert found.panic.function == dump.expected["function"]


def test_a_folder_that_is_none_is_refused(vmcores: Vmcores, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read_crash(vmcores.get("nullptr").path, modules=tmp_path / "none")
