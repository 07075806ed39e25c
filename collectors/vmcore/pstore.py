"""Which of pstore's records are of one crash: a crash leaves several, and a folder may hold several crashes.

Source: the records' names and times (Linux' fs/pstore and its backends). EFI cuts a log into parts of 1 KiB whose names
begin with the crash's time; ramoops and ERST have one record a report, an oops and the panic it led to being two. What
a kernel could not unpack ends in ``.enc.z``. Where records were moved after the reboot all bear its time: those of
ramoops are then taken for one crash.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

PACKED = ".enc.z"
_BACKENDS = "efi(?:_pstore)?|erst|ramoops|nvram|pstore_blk|pstore_zone|blkoops"
RECORD = re.compile(rf"(?:dmesg|console)-(?:{_BACKENDS})-\d+(?:\.enc\.z)?")
_EFI = re.compile(r"dmesg-efi(?:_pstore)?-(\d{10})\d{5}(?:\.enc\.z)?")  # time, two digits of part, three of count
_APART = 90.0  # seconds between the records of one crash: an oops, and the panic it led to
_MOST_UNPACKED = 1 << 20


def time_of(name: str, changed: float) -> float:
    """When a record was written, Unix seconds: by its name where that tells, else when the file was changed.

    >>> time_of("dmesg-efi_pstore-179516160103001", 5.0)
    1795161601.0
    """
    found = _EFI.fullmatch(name)
    return float(found[1]) if found else changed


def crashes(records: Iterable[tuple[str, float]]) -> list[list[str]]:
    """Group records (path, time of the file) by crash, the newest first; in each the records in order of their names.

    A console's record is what any boot leaves: it is put beside the newest crash, and is none alone.
    """
    dated = sorted((time_of(Path(path).name, changed), path) for path, changed in records)
    reports = [(at, path) for at, path in dated if Path(path).name.startswith("dmesg")]
    groups, last = list[list[str]](), float("-inf")
    for at, path in reports:
        if at - last > _APART:
            groups.append([])
        groups[-1].append(path)
        last = at
    if groups:
        groups[-1] += [path for _, path in dated if Path(path).name.startswith("console")]
    return [sorted(group) for group in reversed(groups)]


def of_one_crash(path: Path) -> tuple[list[Path], int]:
    """Return (the files to read as one log, how many crashes else the folder holds).

    A folder stands for the newest crash in it, a record for all that are of its crash, any other file for itself.

    :raises OSError: the folder cannot be listed
    """
    folder = path if path.is_dir() else path.parent
    if folder is path or RECORD.fullmatch(path.name):
        files = [file for file in folder.iterdir() if file.is_file()]
        groups = crashes((str(file), file.stat().st_mtime) for file in files if RECORD.fullmatch(file.name))
        wanted = [group for group in groups if folder is path or str(path) in group]
        if wanted and (whole := folder / "dmesg.txt") in files and folder is path:
            return [whole], len(groups) - 1  # systemd-pstore put its parts together
        if wanted:
            return [Path(file) for file in wanted[0]], len(groups) - 1
        if folder is path:
            return sorted(files), 0
    return [path], 0


def unpacked(path: Path, content: bytes) -> bytes:
    """Return a record's text, unpacked where the kernel could not; as far as that goes."""
    if not path.name.endswith(PACKED):
        return content
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        try:
            text = zlib.decompressobj(window).decompress(content, _MOST_UNPACKED)
        except zlib.error:
            continue
        if text:
            return text
    return b""


def packed(files: Sequence[Path], contents: Sequence[bytes]) -> list[str]:
    """The names of records that could not be unpacked."""
    return [
        file.name for file, content in zip(files, contents, strict=True) if file.name.endswith(PACKED) and not content
    ]
