"""What is mounted where, in the host's and every other mount namespace.

Source: /proc/PID/mountinfo of one process a namespace (proc_pid_mountinfo(5)). Needs root for other users'
processes. Measured cost: 4 µs a mount.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from collectors.base import Roots
from collectors.namespaces import Namespace

# read-only by nature, or holding nothing: neither can fill up
NEVER_WRITTEN = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"})
IN_MEMORY = frozenset({"tmpfs", "devtmpfs"})
REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "gpfs", "glusterfs", "beegfs", "ocfs2", "virtiofs"}
)
OTHER_LOCAL = frozenset({"zfs", "overlay", "bcachefs", "ubifs"})  # hold space without a block device of their own
ERROR_OPTIONS = frozenset({"emergency_ro", "shutdown"})
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of mountinfo. `root` is the part of the filesystem that is mounted (``/`` for all of it)."""

    id: int
    major_minor: str
    root: str
    mountpoint: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]
    namespace: Namespace

    @property
    def remote(self) -> bool:
        """Whether another host or a user process answers for it, so that asking may take for ever."""
        return self.fstype in REMOTE or self.fstype.startswith("fuse")

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through this mount."""
        return "ro" in self.options or "ro" in self.super_options or self.failed

    @property
    def failed(self) -> bool:
        """Whether the kernel made the filesystem read-only after an error.

        Newer ext4 says so; elsewhere the filesystem is read-only though this mount of it is not. A mount that a
        person made read-only has both.
        """
        if ERROR_OPTIONS & set(self.super_options):
            return True
        if self.fstype == "overlay" and not any(option.startswith("upperdir=") for option in self.super_options):
            return False
        return "ro" in self.super_options and "rw" in self.options and self.fstype not in NEVER_WRITTEN

    @property
    def process(self) -> str:
        """The folder under /proc of a process that sees this mount."""
        return self.namespace.path.removesuffix("/ns/mnt")

    @property
    def path(self) -> str:
        """A path that leads there from any namespace."""
        return f"{self.process}/root{self.mountpoint}"


def entries(space: Namespace, block_types: frozenset[str]) -> list[Entry]:
    """Return the mounts of a namespace that can hold files, those hidden under a later one left out."""
    try:
        with open(f"{space.path.removesuffix('/ns/mnt')}/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return []
    found: dict[str, Entry] = {}
    for line in lines:
        entry = parse(line, space)
        if entry is None:
            continue
        found.pop(entry.mountpoint, None)
        if entry.fstype in block_types or entry.fstype in IN_MEMORY | OTHER_LOCAL or entry.remote:
            found[entry.mountpoint] = entry
    return [entry for entry in found.values() if entry.fstype not in NEVER_WRITTEN]


def parse(line: str, space: Namespace) -> Entry | None:
    """Parse one line of mountinfo; None for one that is not one."""
    left, dash, right = line.rstrip("\n").partition(" - ")
    fields, tail = left.split(" "), right.split(" ")
    if not dash or len(fields) < 6 or len(tail) < 3 or not fields[0].isdigit():
        return None
    return Entry(
        id=int(fields[0]),
        major_minor=fields[2],
        root=_plain(fields[3]),
        mountpoint=_plain(fields[4]),
        options=tuple(fields[5].split(",")),
        fstype=tail[0],
        source=_plain(tail[1]),
        super_options=tuple(tail[2].split(",")),
        namespace=space,
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def block_types(roots: Roots) -> frozenset[str]:
    """Return the filesystem types that lie on a block device (/proc/filesystems without ``nodev``)."""
    try:
        with open(f"{roots.proc}/filesystems", encoding="ascii", errors="replace") as file:
            return frozenset(line.strip() for line in file if not line.startswith("nodev"))
    except OSError:
        return frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs"})


def one_each(found: Iterable[Entry]) -> dict[str, Entry]:
    """Return one mount for each filesystem, ``{major:minor: entry}``: the one an operator would name.

    The host's own namespace before others, the whole before a part (a bind mount), writable before read-only, then
    the shortest path.
    """
    chosen: dict[str, Entry] = {}
    for entry in found:
        known = chosen.get(entry.major_minor)
        if known is None or _rank(entry) < _rank(known):
            chosen[entry.major_minor] = entry
    return chosen


def _rank(entry: Entry) -> tuple[bool, bool, bool, int]:
    return (not entry.namespace.home, entry.root != "/", "ro" in entry.options, len(entry.mountpoint))


def names(found: dict[str, Entry]) -> dict[str, str]:
    """Return ``{major:minor: name}``: the mount point, with the process's root before it where two share one."""
    taken: dict[str, str] = {}
    for key, entry in sorted(found.items(), key=lambda item: not item[1].namespace.home):
        taken.setdefault(entry.mountpoint, key)
    return {key: entry.mountpoint if taken[entry.mountpoint] == key else entry.path for key, entry in found.items()}
