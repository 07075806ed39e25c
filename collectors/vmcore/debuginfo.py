"""Adds debug information that the user has: a vmlinux, module files. Nothing is believed that is of another build.

drgn passes a file of another build over without a word; so the build id is compared here first, and a file that does
not fit is refused by name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.vmcore.elf import each_note
from wardround.errors import UserError, one_line

if TYPE_CHECKING:
    from collectors.vmcore.open import Dump

_SHT_NOTE, _GNU_BUILD_ID = 7, 3
_MOST_MODULES = 4000
_MOST_NOTES = 1 << 20


def build_id(path: Path) -> str:
    """Return the build id of an ELF file in hexadecimal, empty where it has none. :raises OSError: it cannot be read"""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return ""
        (at,) = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        if size != 64:
            return ""
        file.seek(at)
        table = file.read(size * count)
        for start in range(0, len(table) - 63, 64):
            _, kind, _, _, offset, length = struct.unpack_from("<IIQQQQ", table, start)
            if kind == _SHT_NOTE and length <= _MOST_NOTES:
                file.seek(offset)
                for name, number, content in each_note(file.read(length)):
                    if name == b"GNU" and number == _GNU_BUILD_ID:
                        return content.hex()
    return ""


def add(dump: Dump, vmlinux: Path | None, modules: Path | None) -> None:
    """Load debug information into a dump's program and raise its tier by what was of use.

    :raises UserError: a file cannot be read or belongs to another kernel
    """
    if vmlinux is not None:
        _check_vmlinux(dump, vmlinux)
    files = [*(_module_files(modules) if modules is not None else ()), *([vmlinux] if vmlinux is not None else ())]
    try:
        dump.prog.load_debug_info([str(file) for file in files])
    except Exception as error:  # noqa: BLE001 - drgn's bare Exception; what was loaded until then stays
        dump.lost["debug information"] = one_line(error)
    loaded = [module for module in dump.prog.modules() if module.debug_file_path is not None]
    if vmlinux is not None:
        dump.tier = "debuginfo"
    elif loaded:
        dump.tier = "modules"
    elif modules is not None:
        dump.lost["module files"] = f"none of the files in {modules} has the build id of a module in the dump"


def _check_vmlinux(dump: Dump, vmlinux: Path) -> None:
    try:
        found = build_id(vmlinux)
    except OSError as error:
        raise UserError(f"{vmlinux} cannot be read", error.strerror or str(error), "name a vmlinux") from error
    if not found:
        raise UserError(
            f"{vmlinux} is no vmlinux", "it is no ELF file with a build id", "name the vmlinux of the debug package"
        )
    if dump.build_id and found != dump.build_id:
        raise UserError(
            f"{vmlinux} belongs to another kernel",
            f"its build id is {found}, the dump's is {dump.build_id} ({dump.release})",
            f"install the debug package of {dump.release}, or leave --vmlinux out: the dump alone is enough",
        )


def _module_files(folder: Path) -> list[Path]:
    """:raises UserError: it is no folder"""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "", "name the folder that holds the modules' .ko files")
    found = [path for pattern in ("*.ko", "*.ko.debug") for path in sorted(folder.rglob(pattern))]
    return found[:_MOST_MODULES]
