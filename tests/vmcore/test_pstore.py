"""The records of one crash are read as one log, those of another are left out and told of."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from collectors.vmcore.fromlog import read_log
from wardround.models.vmcore import Vmcore

LOG = (Path(__file__).parent / "logs" / "null_write_6.12.log").read_text().splitlines()
AT = 1_795_161_601


def _record(path: Path, lines: list[str], head: str, age: float = 0.0) -> None:
    path.write_text(f"{head}\n" + "\n".join(f"<4>{line}" for line in lines) + "\n")
    os.utime(path, (AT - age, AT - age))


def _kind(vmcore: Vmcore) -> str:
    assert vmcore.panic is not None
    return vmcore.panic.kind


def test_a_folder_of_two_crashes_is_read_as_the_newest_and_a_record_as_its_own(tmp_path: Path) -> None:
    other = ["[   90.000000] Kernel panic - not syncing: Attempted to kill init!"]
    half = len(LOG) // 2
    _record(tmp_path / f"dmesg-efi_pstore-{AT}02001", LOG[:half], "Panic#1 Part2")
    _record(tmp_path / f"dmesg-efi_pstore-{AT}01001", LOG[half:], "Panic#1 Part1")
    _record(tmp_path / f"dmesg-efi_pstore-{AT - 9000}01001", other, "Panic#1 Part1")
    newest = read_log(tmp_path)
    assert _kind(newest) == "null_pointer"
    assert len(newest.log) == len([line for line in LOG if line.strip()])
    assert any("the records of 1 more" in each.reason for each in newest.skipped)
    before = read_log(tmp_path / f"dmesg-efi_pstore-{AT - 9000}01001")
    assert before.panic is not None
    assert before.panic.message == "Attempted to kill init!"
    assert _kind(read_log(tmp_path / f"dmesg-efi_pstore-{AT}02001")) == "null_pointer"


def test_an_oops_and_its_panic_in_two_records_of_ramoops_are_one_crash(tmp_path: Path) -> None:
    """The panic's record holds the oops' lines once more."""
    _record(tmp_path / "dmesg-ramoops-0", LOG[:-2], f"===={AT}.000001-D\nOops#1 Part1", age=1.0)
    _record(tmp_path / "dmesg-ramoops-1", LOG, f"===={AT}.900001-D\nPanic#2 Part1")
    found, whole = read_log(tmp_path), tmp_path / "whole"
    whole.mkdir()
    _record(whole / "dmesg-ramoops-0", LOG, f"===={AT}.900001-D\nPanic#1 Part1")
    expected = read_log(whole)
    assert [line.text for line in found.log] == [line.text for line in expected.log]
    assert len(found.reports) == len(expected.reports)


@pytest.mark.parametrize("window", [-zlib.MAX_WBITS, zlib.MAX_WBITS])
def test_a_record_that_the_kernel_could_not_unpack_is_unpacked_here(tmp_path: Path, window: int) -> None:
    packer = zlib.compressobj(wbits=window)
    text = ("Panic#1 Part1\n" + "\n".join(LOG)).encode()
    (tmp_path / f"dmesg-efi_pstore-{AT}01001.enc.z").write_bytes(packer.compress(text) + packer.flush())
    assert _kind(read_log(tmp_path)) == "null_pointer"


def test_a_record_that_nobody_can_unpack_is_named(tmp_path: Path) -> None:
    (tmp_path / f"dmesg-efi_pstore-{AT}01001.enc.z").write_bytes(b"\xff" * 200)
    found = read_log(tmp_path)
    assert found.panic is None
    assert any(".enc.z cannot be unpacked" in each.reason for each in found.skipped)
