"""Crashes that left files on this host: what kdump and pstore have stored, the newest first. No file is opened.

Source: /var/crash (kdump-tools: a folder a crash with ``dump.*`` and ``dmesg.*``; kexec-tools: ``vmcore`` and
``vmcore-dmesg.txt``), /var/lib/systemd/pstore, /sys/fs/pstore, and the folders the settings name. Needs the right to
list them, as a rule root. Measured cost: 0.1 ms where there is none, 2 ms for 64 crashes. A file's time stands for the
crash's: it is wrong for files that were copied without it. It cannot know whether a file is of this very host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from collectors.vmcore import pstore

MOST = 16
_MOST_FOLDERS = 64
_MOST_ENTRIES = 1024
_DEPTH = 2  # systemd-pstore: a folder a time, in it one a record
_DUMP = re.compile(r"(?:vmcore|dump)(?:[.-](?:flat|incomplete|\d{8,14}))?")
_LOG = re.compile(rf"vmcore-dmesg[\w-]*\.txt|dmesg\.(?:\d{{8,14}}|txt)|{pstore.RECORD.pattern}")
_NAMES = re.compile(f"{_DUMP.pattern}|{_LOG.pattern}")
_SECONDS = re.compile(r"\d{10}")  # systemd-pstore's name of a crash: Unix time


@dataclass(frozen=True, slots=True)
class Left:
    """What one crash left: Unix time, the dump and the log (a file, or pstore's folder), empty where there is none, and
    the dump's size in bytes."""

    time: float
    dump: str = ""
    log: str = ""
    size: int = 0

    @property
    def path(self) -> str:
        return self.dump or self.log


@dataclass(frozen=True, slots=True)
class Found:
    """The crashes, and the folders that exist but may not be listed, with the reason."""

    crashes: tuple[Left, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    name: str
    size: int
    time: float


def folders(var: str, sys: str, further: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return where to look."""
    own = (f"{var}/crash", f"{var}/lib/systemd/pstore", f"{sys}/fs/pstore")
    return tuple(dict.fromkeys((*own, *map(str, further))))


def find(where: Sequence[str]) -> Found:
    """Return the crashes below these folders, the newest `MOST`; nothing is opened and no link is followed."""
    crashes: list[Left] = []
    refused: list[tuple[str, str]] = []
    for base in where:
        try:
            crashes.extend(_below(base))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused.append((base, error.strerror or str(error)))
    crashes.sort(key=lambda crash: (-crash.time, crash.path))
    return Found(tuple(crashes[:MOST]), tuple(refused))


def _below(base: str) -> Iterator[Left]:
    """Walk the newest folders below `base`; what vanishes or is forbidden further down is passed over."""
    level = [(base, 0)]
    looked = 0
    while level and looked < _MOST_FOLDERS:
        folder, depth = level.pop(0)
        looked += 1
        try:
            files, below = _listed(folder)
        except OSError:
            if depth == 0:
                raise
            continue
        yield from _crashes(folder, files)
        if depth < _DEPTH:
            level += [(path, depth + 1) for path in below]


def _listed(folder: str) -> tuple[list[_File], list[str]]:
    """Return the files of a folder that may be of a crash, and its folders, the newest first."""
    files, below = list[_File](), list[tuple[float, str]]()
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= _MOST_ENTRIES:
                break
            try:
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    below.append((status.st_mtime, entry.path))
                elif entry.is_file(follow_symlinks=False) and _NAMES.fullmatch(entry.name):
                    files.append(_File(entry.path, entry.name, status.st_size, status.st_mtime))
            except OSError:
                continue  # gone meanwhile
    return files, [path for _, path in sorted(below, reverse=True)]


def _crashes(folder: str, files: Sequence[_File]) -> Iterator[Left]:
    """One crash a dump with the log beside it; without a dump, one a log or one a group of pstore's records."""
    dumps = [file for file in files if _DUMP.fullmatch(file.name) and file.size]
    logs = [file for file in files if _LOG.fullmatch(file.name) and file.size]
    for dump in dumps:
        beside = [log for log in logs if len(dumps) == 1 or _number(log.name) == _number(dump.name)]
        log = max(beside, key=lambda file: file.size, default=None)
        earliest = min(file.time for file in (dump, *beside))  # the log is written first, a large dump takes minutes
        yield Left(_told(folder, earliest), dump.path, log.path if log else "", dump.size)
    if dumps:
        return
    records = {log.path: log for log in logs if pstore.RECORD.fullmatch(log.name)}
    whole = max((log for log in logs if log.path not in records), key=lambda file: file.time, default=None)
    if whole:
        yield Left(_told(folder, max(file.time for file in logs)), log=whole.path)
        return
    groups = pstore.crashes((log.path, log.time) for log in records.values())
    for group in groups:
        time = max(pstore.time_of(records[path].name, records[path].time) for path in group)
        yield Left(_told(folder, time), log=folder if len(groups) == 1 else group[0])


def _number(name: str) -> str:
    return name.partition(".")[2]


def _told(folder: str, time: float) -> float:
    """The time that systemd-pstore names a folder by, which moves the files after the reboot; else the files' own."""
    named = [part for part in Path(folder).parts[-2:] if _SECONDS.fullmatch(part)]
    return min(float(named[-1]), time) if named else time
