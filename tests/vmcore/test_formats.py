"""A dump's format and machine are told by its first bytes, without a reader of dumps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from collectors.vmcore.formats import FLATTENED, KDUMP, identify, is_dump
from tests.vmcore.conftest import Vmcores
from wardround.errors import UserError


@pytest.mark.parametrize("form", ["elf", "kdump", "flattened"])
def test_real_dumps_are_told_with_their_machine(vmcores: Vmcores, form: str) -> None:
    path = vmcores.get("nullptr", "6.1", form).path
    told, machine = identify(path)
    assert told == form
    assert machine in ("x86_64", "")  # QEMU leaves a kdump header's names empty
    with path.open("rb") as file:
        assert is_dump(file.read(16))


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (KDUMP[0] + bytes(4) + bytes(4 * 65) + b"aarch64" + bytes(100), ("kdump", "aarch64")),
        (KDUMP[1] + bytes(4) + bytes(4 * 65) + b"x86_64" + bytes(100), ("kdump", "x86_64")),
        (KDUMP[0] + bytes(4) + bytes(4 * 65) + b"\xff\x01" + bytes(100), ("kdump", "")),
        (FLATTENED + bytes(20), ("flattened", "")),
    ],
)
def test_the_machine_is_the_header_s_where_it_is_a_name(tmp_path: Path, head: bytes, told: tuple[str, str]) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(head)
    assert identify(path) == told


@pytest.mark.parametrize("head", [b"KDUMP", b"\x7fEL", b"text", b"\x1f\x8b\0\0"])
def test_what_is_no_dump_is_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(head)
    assert not is_dump(head)
    with pytest.raises(UserError, match="no crash dump"):
        identify(path)


def test_the_process_that_starts_the_reader_loads_no_reader_of_dumps() -> None:
    code = "import sys, collectors.vmcore.read; sys.exit('drgn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
