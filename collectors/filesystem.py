"""Filesystems that hold space: size, use, inodes, reserved blocks, errors, and whether the kernel made one read-only.

Source: mountinfo of every mount namespace, statvfs(3), /sys/fs/ext4/DEVICE/errors_count. Needs root to see into other
users' namespaces. Measured cost: 0.5 ms a read for five filesystems in two namespaces, every fifth tick.

Each filesystem is counted once, under the mount an operator would name. Remote filesystems are asked in a thread of
their own: one that does not answer is reported as unresponsive and not asked again until it does. Read-only by
choice is left out of the space series: nothing can fill it. An overlay is left out where what it lies on is listed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.mountinfo import IN_MEMORY, Entry, block_types, entries, names, one_each
from collectors.namespaces import Paced, namespaces
from collectors.space import OpenFile, largest, open_files
from wardround.models.series import Catalogue, Frame
from wardround.models.topology import Mount

MOST = 64  # filesystems listed
REMOTE_PATIENCE = 0.05
NEARLY_FULL = 0.90  # share of space or inodes from which a snapshot looks for what fills it
SEARCH_SECONDS = 0.8  # for all nearly full filesystems together
FOREIGN_TMPFS_FROM = 0.5  # a container has several small ones: they count once half full


@dataclass(frozen=True, slots=True)
class Space:
    """What statvfs said, in bytes and inodes; `files` is 0 where the filesystem has no fixed number."""

    size: int
    used: int
    free: int
    reserved: int
    files: int
    files_used: int
    files_free: int

    @classmethod
    def of(cls, result: os.statvfs_result) -> Space:
        unit = result.f_frsize
        return cls(
            size=result.f_blocks * unit,
            used=(result.f_blocks - result.f_bfree) * unit,
            free=result.f_bavail * unit,
            reserved=max(0, result.f_bfree - result.f_bavail) * unit,
            files=result.f_files,
            files_used=result.f_files - result.f_ffree,
            files_free=result.f_favail,
        )

    @property
    def share(self) -> float:
        """Share of the space that ordinary users could have which is used."""
        return self.used / (self.used + self.free) if self.used + self.free else 0.0

    @property
    def files_share(self) -> float:
        return self.files_used / (self.files_used + self.files_free) if self.files else 0.0


class _Remote:
    """Asks remote filesystems without ever waiting long for one."""

    def __init__(self) -> None:
        self._asking: dict[str, tuple[threading.Thread, list[os.statvfs_result]]] = {}

    def ask(self, path: str) -> os.statvfs_result | None:
        """Return the answer, None where it has not come yet; raises nothing."""
        thread, answers = self._asking.get(path, (None, []))
        if thread is None:
            answers = []
            thread = threading.Thread(target=_ask, args=(path, answers), name="wardround-statvfs", daemon=True)
            thread.start()
            thread.join(REMOTE_PATIENCE)
        if thread.is_alive():
            self._asking[path] = (thread, answers)
            return None
        self._asking.pop(path, None)
        return answers[0] if answers else None


def _ask(path: str, answers: list[os.statvfs_result]) -> None:
    try:
        answers.append(os.statvfs(path))
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class _Filesystem:
    name: str
    entry: Entry
    space: Space | None

    @property
    def nearly_full(self) -> bool:
        return self.space is not None and max(self.space.share, self.space.files_share) >= NEARLY_FULL


class _Survey:
    """Finds the filesystems and asks each for its space."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._types = block_types(roots)
        self._remote = _Remote()
        self._spaces = Paced(lambda: namespaces("mnt", roots), least=10.0)

    def mounts(self, clock: float) -> list[Entry]:
        found = []
        for space in self._spaces(clock):
            seen = entries(space, self._types)
            if not seen:
                self._spaces.expire()  # its process ended; another may live there
            found += seen
        return found

    def filesystems(self, mounts: Iterable[Entry]) -> list[_Filesystem]:
        chosen = one_each(mounts)
        called = names(chosen)
        found = []
        for key, entry in chosen.items():
            if entry.read_only and not entry.failed:
                continue
            space = self._space(entry)
            if space is not None and not space.size:
                continue  # no space of its own
            foreign_tmpfs = entry.fstype in IN_MEMORY and not entry.namespace.home
            if foreign_tmpfs and (space is None or max(space.share, space.files_share) < FOREIGN_TMPFS_FROM):
                continue
            found.append(_Filesystem(called[key], entry, space))
        below = {(f.space.size, f.space.files) for f in found if f.space and f.entry.fstype != "overlay"}
        return [
            f for f in found if f.entry.fstype != "overlay" or not f.space or (f.space.size, f.space.files) not in below
        ][:MOST]

    def _space(self, entry: Entry) -> Space | None:
        if entry.remote:
            answer = self._remote.ask(entry.path)
        else:
            try:
                answer = os.statvfs(entry.path)
            except OSError:
                answer = None
        return Space.of(answer) if answer else None


class FilesystemCollector:
    """Collector of filesystem space, inodes and state."""

    name = "collectors.filesystem"
    every = 5

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._survey = _Survey(roots)

    def probe(self) -> Capability:
        if not os.access(f"{self._roots.proc}/self/mountinfo", os.R_OK):
            return Capability(False, f"{self._roots.proc}/self/mountinfo cannot be read", "/proc mounted")
        return Capability(True)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        number = self._catalogue.id

        def put(value: float, metric: str, **labels: str) -> None:
            ids.append(number(metric, **labels))
            values.append(value)

        for found in self._survey.filesystems(self._survey.mounts(clock)):
            where, space = found.name, found.space
            put(float(found.entry.failed), "linux.filesystem.readonly", mountpoint=where)
            if found.entry.remote:
                put(float(space is None), "linux.filesystem.unresponsive", mountpoint=where)
            errors = _ext4_errors(found.entry, self._roots)
            if errors is not None:
                put(errors[1], "linux.filesystem.errors", device=errors[0])
            if space is None:
                continue
            put(space.size, "system.filesystem.limit", mountpoint=where)
            put(space.used, "system.filesystem.usage", mountpoint=where, state="used")
            put(space.free, "system.filesystem.usage", mountpoint=where, state="free")
            put(space.reserved, "system.filesystem.usage", mountpoint=where, state="reserved")
            if space.files:
                put(space.files_used, "linux.filesystem.inodes", mountpoint=where, state="used")
                put(space.files_free, "linux.filesystem.inodes", mountpoint=where, state="free")
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        return


def _ext4_errors(entry: Entry, roots: Roots) -> tuple[str, int] | None:
    if entry.fstype not in ("ext4", "ext3", "ext2"):
        return None
    device = _device(entry, roots)
    try:
        return device, int(Path(roots.sys, "fs/ext4", device.replace("/", "!"), "errors_count").read_text())
    except (OSError, ValueError):
        return None


def _device(entry: Entry, roots: Roots) -> str:
    """Return the kernel's name of the block device below, else what the mount calls its source."""
    try:
        return os.path.basename(os.readlink(f"{roots.sys}/dev/block/{entry.major_minor}")).replace("!", "/")
    except OSError:
        return entry.source.removeprefix("/dev/")


def snapshot_mounts(roots: Roots | None = None, seconds: float = SEARCH_SECONDS) -> tuple[Mount, ...]:
    """Return the filesystems that hold space; for nearly full ones also what fills them, within `seconds` in all."""
    roots = roots or Roots()
    survey = _Survey(roots)
    every = survey.mounts(0.0)
    found = survey.filesystems(every)
    full = {f.entry.major_minor for f in found if seconds and f.nearly_full and not f.entry.remote}
    wanted = {entry.id: entry.major_minor for entry in every if entry.major_minor in full}
    held = open_files(wanted, seconds / 3, roots.proc) if full else {}
    mounts = []
    for f in found:
        entry, key = f.entry, f.entry.major_minor
        mount = Mount(
            mountpoint=f.name,
            device=_device(entry, roots),
            fstype=entry.fstype,
            options=entry.options,
            major_minor=key,
            source=entry.source,
            mntns=0 if entry.namespace.home else entry.namespace.inode,
            seen_by=None if entry.namespace.home else entry.namespace.pid,
            super_options=entry.super_options,
            failed=entry.failed,
        )
        mounts.append(_with_holders(mount, f, held.get(key, []), seconds / 2 / len(full)) if key in full else mount)
    return tuple(mounts)


def list_mounts(roots: Roots | None = None) -> tuple[Mount, ...]:
    """Like `snapshot_mounts`, without looking for what fills the nearly full ones."""
    return snapshot_mounts(roots, seconds=0.0)


def _with_holders(mount: Mount, found: _Filesystem, files: list[OpenFile], seconds: float) -> Mount:
    holders = largest(found.entry.path, seconds)
    if found.space and found.space.files_share > found.space.share:
        unit, top = "{file}", list(holders.by_files)
    else:
        ghosts = {(file.path, file.size): file.pid for file in files if file.deleted}
        top = [*holders.by_bytes, *((f"{path} (deleted, pid {pid})", size) for (path, size), pid in ghosts.items())]
        unit = "By"
    seen = f"{found.entry.process}/root"
    return replace(
        mount,
        largest=tuple(sorted(((path.removeprefix(seen), size) for path, size in top), key=lambda item: -item[1])[:8]),
        largest_unit=unit,
        writers=tuple(sorted({file.pid for file in files if file.writing})),
    )
