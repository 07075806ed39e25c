"""Tells by a file's first bytes which format of a crash dump it is, and of which machine.

Source: the ELF header, the header of kdump-compressed dumps (makedumpfile's IMPLEMENTATION text), the name in front of
a flattened one. Loads no reader of dumps. It cannot know whether what follows the first bytes is what they promise.
"""

from __future__ import annotations

import struct
from pathlib import Path

from collectors.vmcore import elf
from wardround.errors import UserError
from wardround.models.vmcore import DumpFormat

HEAD = 4096  # bytes that are enough to tell
ELF, KDUMP, FLATTENED = b"\x7fELF", (b"KDUMP   ", b"DISKDUMP"), b"makedumpfile"
# ELF's machine numbers, and the names in a kdump header's utsname.
MACHINES = {3: "i386", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64", 22: "s390x", 40: "arm"}
NUMBERS = {name: number for number, name in MACHINES.items()}
_ET_CORE = 4
_KINDS = {1: "an object or module", 2: "a program", 3: "a program or library"}
_UTSNAME_AT, _UTSNAME_FIELD = 12, 65
_MACHINE_AT = _UTSNAME_AT + 4 * _UTSNAME_FIELD


def is_dump(head: bytes) -> bool:
    """Whether a file that begins so says of itself that it is a dump."""
    return head.startswith((ELF, *KDUMP, FLATTENED))


def identify(path: Path) -> tuple[DumpFormat, str]:
    """Return (format, architecture or empty) by the file's first bytes.

    :raises UserError: it cannot be read or is no crash dump
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror or str(error), "name a crash dump") from error
    if not head:
        raise UserError(
            f"{path} is empty", "0 bytes: the dump was not written", "see whether the crash kernel had room"
        )
    if head.startswith(ELF):
        return "elf", _machine_of_core(path, head)
    if head.startswith(KDUMP):
        return "kdump", _machine_of_kdump(head)
    if head.startswith(FLATTENED):
        return "flattened", ""
    raise UserError(
        f"{path} is no crash dump", "neither ELF nor kdump by its first bytes", "name a vmcore, or a kernel log as text"
    )


def _machine_of_core(path: Path, head: bytes) -> str:
    if len(head) < 64 or head[4] != 2 or head[5] != 1:
        raise UserError(f"{path} is no crash dump", "an ELF file, but not 64-bit little-endian", "name a vmcore")
    kind, machine = struct.unpack_from("<HH", head, 16)
    if kind != _ET_CORE:
        what = _KINDS.get(kind, "not a core")
        raise UserError(f"{path} is no crash dump", f"an ELF file, but {what}", "name a vmcore")
    if elf.is_of_a_program(path):
        raise UserError(f"{path} is no crash dump", "the core of a program, not of a kernel", "name a vmcore")
    return MACHINES.get(machine, f"machine {machine}")


def _machine_of_kdump(head: bytes) -> str:
    """The machine of a kdump header's utsname, its fifth field."""
    raw = head[_MACHINE_AT : _MACHINE_AT + _UTSNAME_FIELD].split(b"\0", 1)[0]
    return raw.decode("ascii", "replace") if raw.isalnum() or b"_" in raw else ""
