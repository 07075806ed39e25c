"""Crash files are found where kdump and pstore leave them, newest first, without opening any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collectors.vmcore.found import MOST, find, folders

NOW = 1_795_000_000.0


def _file(path: Path, age: float = 0.0, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))
    return path


def test_a_host_without_crashes_has_none(tmp_path: Path) -> None:
    assert find(folders(str(tmp_path / "var"), str(tmp_path / "sys"))) == find(())


def test_kdump_tools_leaves_a_folder_a_crash(tmp_path: Path) -> None:
    dump = _file(tmp_path / "202611201131" / "dump.202611201131", size=4096)
    log = _file(tmp_path / "202611201131" / "dmesg.202611201131", age=90.0)
    _file(tmp_path / "kexec_cmd")
    _file(tmp_path / "_usr_bin_app.1000.crash")
    (crash,) = find([str(tmp_path)]).crashes
    assert (crash.dump, crash.log, crash.size, crash.time) == (str(dump), str(log), 4096, NOW - 90.0)


@pytest.mark.parametrize(
    ("dump", "log"),
    [
        ("vmcore", "vmcore-dmesg.txt"),
        ("vmcore.flat", "vmcore-dmesg.txt"),
        ("vmcore-incomplete", "vmcore-dmesg-incomplete.txt"),
        ("vmcore", "dmesg.txt"),
    ],
)
def test_kexec_tools_names_are_known(tmp_path: Path, dump: str, log: str) -> None:
    _file(tmp_path / "127.0.0.1-2026-11-20-11:31:02" / dump)
    _file(tmp_path / "127.0.0.1-2026-11-20-11:31:02" / log)
    (crash,) = find([str(tmp_path)]).crashes
    assert crash.dump.endswith(dump)
    assert crash.log.endswith(log)


def test_a_dump_whose_writing_never_began_does_not_count(tmp_path: Path) -> None:
    _file(tmp_path / "a" / "vmcore", size=0)
    assert find([str(tmp_path)]).crashes == ()


def test_records_of_pstore_are_one_crash_read_as_a_folder(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        _file(tmp_path / f"dmesg-efi_pstore-17950000000{part}001")
    (crash,) = find([str(tmp_path)]).crashes
    assert (crash.log, crash.dump) == (str(tmp_path), "")


def test_several_crashes_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    """EFI's names tell the time, also after systemd moved them; ramoops' records have that of the crash."""
    for at, parts in ((1794000000, 3), (1795000000, 2)):
        for part in range(1, parts + 1):
            _file(tmp_path / "efi" / f"dmesg-efi_pstore-{at}{part:02}001")
    newest, before = find([str(tmp_path / "efi")]).crashes
    assert (newest.time, before.time) == (1_795_000_000.0, 1_794_000_000.0)
    assert newest.log.endswith("dmesg-efi_pstore-179500000001001")
    assert before.log.endswith("dmesg-efi_pstore-179400000001001")
    for number, age in enumerate((90000.0, 30.0, 0.0)):  # a crash a day before, then an oops and its panic
        _file(tmp_path / "ram" / f"dmesg-ramoops-{number}", age=age)
    _file(tmp_path / "ram" / "console-ramoops-0")
    newest, before = find([str(tmp_path / "ram")]).crashes
    assert (newest.time, before.time) == (NOW, NOW - 90000.0)
    assert newest.log.endswith("console-ramoops-0") or newest.log.endswith("dmesg-ramoops-1")


def test_a_record_the_kernel_could_not_unpack_is_one(tmp_path: Path) -> None:
    _file(tmp_path / "dmesg-efi_pstore-179500000001001.enc.z")
    _file(tmp_path / "dmesg-erst-6323145678901234567")
    assert len(find([str(tmp_path)]).crashes) == 1


def test_a_console_record_alone_is_of_any_boot_and_no_crash(tmp_path: Path) -> None:
    _file(tmp_path / "console-ramoops-0")
    assert find([str(tmp_path)]).crashes == ()


def test_what_systemd_moved_after_the_reboot_bears_the_time_of_its_folder(tmp_path: Path) -> None:
    whole = _file(tmp_path / "1794990000" / "001" / "dmesg.txt")
    _file(tmp_path / "1794990000" / "001" / "dmesg-efi_pstore-179499000001001")
    (crash,) = find([str(tmp_path)]).crashes
    assert (crash.time, crash.log) == (1_794_990_000.0, str(whole))


def test_the_newest_come_first_and_there_is_an_end_to_them(tmp_path: Path) -> None:
    for day in range(MOST + 9):
        _file(tmp_path / f"{day:03}" / "vmcore", age=86400.0 * day)
    crashes = find([str(tmp_path)]).crashes
    assert len(crashes) == MOST
    assert crashes[0].dump.endswith("000/vmcore")
    assert [crash.time for crash in crashes] == sorted((crash.time for crash in crashes), reverse=True)


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = _file(tmp_path / "elsewhere" / "vmcore")
    (tmp_path / "crash" / "a").mkdir(parents=True)
    (tmp_path / "crash" / "a" / "vmcore").symlink_to(elsewhere)
    (tmp_path / "crash" / "b").symlink_to(elsewhere.parent)
    assert find([str(tmp_path / "crash")]).crashes == ()


def test_a_folder_of_the_settings_is_looked_at_too(tmp_path: Path) -> None:
    _file(tmp_path / "dumps" / "vmcore")
    where = folders(str(tmp_path / "var"), str(tmp_path / "sys"), (tmp_path / "dumps",))
    assert len(find(where).crashes) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "crash"
    closed.mkdir(mode=0)
    assert find([str(closed)]).refused == ((str(closed), "Permission denied"),)
    closed.chmod(0o700)
