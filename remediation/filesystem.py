"""Actions on a filesystem: find what fills it, free or add space, repair it. What to delete is a person's choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from remediation.action import INTERRUPTS, IRREVERSIBLE, LOCAL, READS, Draft, Params, Spec, Target
from wardround.models.topology import Mount
from wardround.shell import command

MountPoint = Annotated[str, Field(pattern=r"^/[^\x00\n]*$", max_length=4096)]


class Filesystem(Params):
    """One mounted filesystem."""

    mountpoint: MountPoint


class Files(Params):
    """Files and folders of one filesystem that a person has picked from the list."""

    mountpoint: MountPoint
    paths: str = Field(min_length=1, max_length=8192)


class Growth(Params):
    """How many bytes to add."""

    mountpoint: MountPoint
    add: int = Field(ge=1024 * 1024, le=2**50)


def _used(target: Target, mount: Mount, metric: str, unit: str) -> str:
    window = target.observation.window
    used = window.last(metric, mountpoint=mount.mountpoint, state="used")
    free = window.last(metric, mountpoint=mount.mountpoint, state="free")
    return f"{used:.0f} {unit} used, {free:.0f} free" if used == used else f"no figure in {unit}"


def list_largest(target: Target) -> Iterator[Draft]:
    mount = target.mount
    if mount is None:
        return
    count = "--inodes" if target.hypothesis.fault == "fs.inodes" else "-b"
    known = ", ".join(f"{path} ({amount})" for path, amount in mount.largest[:5])
    yield Draft(
        params=Filesystem(mountpoint=mount.mountpoint),
        preview=f"list what holds most of {mount.mountpoint}: "
        + command(f"du -x {count} {{}} | sort -n | tail -20", mount.mountpoint)
        + (f"; seen now: {known}" if known else ""),
        blast_radius="none; reading a large tree takes I/O",
        rollback="none needed: it only reads",
        precheck=f"{mount.mountpoint} is mounted",
        verify="the list adds up to what df says, else deleted files are still open: ls -l /proc/*/fd | grep deleted",
    )


def free_space(target: Target) -> Iterator[Draft]:
    mount = target.mount
    if mount is None or not mount.largest:
        return
    inodes = target.hypothesis.fault == "fs.inodes"
    metric, unit = ("linux.filesystem.inodes", "inodes") if inodes else ("system.filesystem.usage", "bytes")
    shown = ", ".join(f"{path} ({amount} {'files' if inodes else 'bytes'})" for path, amount in mount.largest[:5])
    yield Draft(
        params=Files(mountpoint=mount.mountpoint, paths="\n".join(path for path, _ in mount.largest[:5])[:8192]),
        preview=f"{mount.mountpoint}: {_used(target, mount, metric, unit)} -> less by what a person picks of: {shown}",
        blast_radius="whoever needs these files; the list is a question, not a choice",
        rollback="none: deleted files are gone, restore them from a backup",
        precheck="a person has confirmed each path; none is a database, a log in use or a mount point",
        verify=f"{metric} of {mount.mountpoint} falls",
    )


def grow(target: Target) -> Iterator[Draft]:
    """Add a quarter to the filesystem; only where the kind can grow while mounted."""
    mount = target.mount
    if mount is None or mount.fstype not in ("ext4", "xfs", "btrfs", "tmpfs"):
        return
    window = target.observation.window
    sizes = [window.last("system.filesystem.usage", mountpoint=mount.mountpoint, state=s) for s in ("used", "free")]
    size = sum(sizes)
    if not size > 0:
        return
    add = max(int(size * 0.25) // 2**20 * 2**20, 2**20)
    yield Draft(
        params=Growth(mountpoint=mount.mountpoint, add=add),
        preview=f"size of {mount.mountpoint} ({mount.fstype} on {mount.device}): "
        f"{int(size)} -> {int(size) + add} bytes, by {_growing(target, mount, int(size), add)}",
        blast_radius="1 filesystem, while mounted",
        rollback="tmpfs shrinks again; xfs and most volumes do not" if mount.fstype != "tmpfs" else "remount as before",
        precheck="the volume group, the disk or memory has the room",
        verify=f"system.filesystem.usage of {mount.mountpoint}, state free, rises",
    )


def _growing(target: Target, mount: Mount, size: int, add: int) -> str:
    if mount.fstype == "tmpfs":
        return command(f"mount -o remount,size={size + add} {{}}", mount.mountpoint)
    device = f"/dev/{mount.device}"
    resize = {
        "xfs": command("xfs_growfs {}", mount.mountpoint),
        "btrfs": command("btrfs filesystem resize max {}", mount.mountpoint),
    }
    then = resize.get(mount.fstype, command("resize2fs {}", device))
    known = target.observation.after.devices.get(mount.device)
    if known is not None and known.backing.startswith("/"):  # a loop device over a file
        return command(f"truncate -s +{add} {{}} && losetup -c {{}}", known.backing, device) + f" && {then}"
    if mount.device.startswith("dm-"):
        return command(f"lvextend -r -L +{add}b {{}}", mount.source)
    return f"growing {device} by {add} bytes, then {then}"


def fsck_and_remount(target: Target) -> Iterator[Draft]:
    mount = target.mount
    if mount is None:
        return
    users = f"{len(mount.writers)} processes that write there, and " if mount.writers else ""
    yield Draft(
        params=Filesystem(mountpoint=mount.mountpoint),
        preview=f"{mount.mountpoint}: read-only -> unmounted, {mount.device} checked (fsck), mounted read-write",
        blast_radius=f"{users}everything that uses {mount.mountpoint} while it is away",
        rollback=f"mount {mount.device} read-only again; what fsck changed stays (take an image first)",
        precheck=f"{mount.device} reports no I/O errors now, and nothing keeps {mount.mountpoint} busy",
        verify=f"linux.filesystem.readonly of {mount.mountpoint} is 0 and stays it",
    )


def inspect_errors(target: Target) -> Iterator[Draft]:
    mount = target.mount
    device = f"/dev/{mount.device}" if mount is not None else target.name
    yield Draft(
        params=Filesystem(mountpoint=mount.mountpoint if mount is not None else "/"),
        preview=f"read why {target.name} failed: dmesg | grep -iE 'error|remount'; "
        + command("smartctl -a {}", device),
        blast_radius="none",
        rollback="none needed: it only reads",
        precheck="the kernel log can be read",
        verify="the first error names the device or the filesystem",
    )


ACTIONS = (
    Spec("fs.list_largest", "list what fills a filesystem", Filesystem, READS, list_largest),
    Spec("fs.inspect_errors", "read why a filesystem failed", Filesystem, READS, inspect_errors),
    Spec("fs.grow", "add space to a filesystem", Growth, LOCAL, grow),
    Spec("fs.fsck_and_remount", "repair a filesystem and mount it again", Filesystem, INTERRUPTS, fsck_and_remount),
    Spec("fs.free_space", "delete what a person picks from the list", Files, IRREVERSIBLE, free_space),
)
