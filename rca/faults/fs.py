"""Filesystems: no space, no inodes, read-only after an error."""

from __future__ import annotations

import numpy as np

from rca.faults.shared import in_logs, rise, size, syscall_errors
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Mount
from wardround.shell import command


def _mount(view: View, culprit: Culprit) -> Mount | None:
    return next((m for m in view.observation.after.mounts if m.mountpoint == culprit.name), None)


def _culprit(view: View, mountpoint: str) -> Culprit:
    mount = next((m for m in view.observation.after.mounts if m.mountpoint == mountpoint), None)
    labels = (("device", mount.device), ("type", mount.fstype)) if mount else ()
    return Culprit("filesystem", mountpoint, mount.seen_by if mount else None, labels)


def _shares(view: View, metric: str) -> dict[str, float]:
    """Used share of space or inodes by mount point, of what users may use (reserved blocks left out)."""
    window, out = view.window, {}
    for mountpoint in window.entities(metric, "mountpoint"):
        used, free = (window.last(metric, mountpoint=mountpoint, state=s) for s in ("used", "free"))
        if used + free > 0:
            out[mountpoint] = used / (used + free)
    return out


def _full_suspects(view: View) -> list[Culprit]:
    shares = _shares(view, "system.filesystem.usage")
    # Read-only images are full by nature.
    shares = {m: s for m, s in shares.items() if view.window.last("linux.filesystem.readonly", mountpoint=m) != 1.0}
    chosen = sorted((m for m in shares if shares[m] > 0.9), key=lambda m: -shares[m])[:3]
    return [_culprit(view, m) for m in chosen]


def _space_left(view: View, culprit: Culprit) -> Finding | None:
    window = view.window
    used, free = (window.last("system.filesystem.usage", mountpoint=culprit.name, state=s) for s in ("used", "free"))
    if np.isnan(used + free) or used + free <= 0:
        return None
    share = free / (used + free)
    return Finding(
        value=share,
        statement=f"{culprit.name} has {size(free)} of {size(used + free)} left ({share:.1%})",
        values={"free_bytes": free, "usable_bytes": used + free, "free_share": share},
        unit="By",
        reproduce=command("df -h {}", culprit.name)
        + (f"   # as pid {culprit.pid} sees it: /proc/{culprit.pid}/root" if culprit.pid else ""),
        source="collectors.filesystem",
        series=(f"system.filesystem.usage{{mountpoint={culprit.name}, state=free}}",),
        onset=series_onset(window, -window.level("system.filesystem.usage", mountpoint=culprit.name, state="free")),
    )


def _filled_by(view: View, culprit: Culprit) -> Finding | None:
    mount = _mount(view, culprit)
    if mount is None or not mount.largest:
        return None
    parts = [f"{path} ({size(amount) if mount.largest_unit == 'By' else amount})" for path, amount in mount.largest[:3]]
    return Finding(
        value=1.0,
        statement=f"most of it is in {', '.join(parts)}",
        values={f"largest{i}": amount for i, (_, amount) in enumerate(mount.largest[:3])},
        unit=mount.largest_unit,
        reproduce=command("du -xah {} | sort -rh | head", culprit.name)
        if mount.largest_unit == "By"
        else command("du -x --inodes {} | sort -rn | head", culprit.name),
        source="collectors.filesystem",
        kind="topology",
        trust="host",
    )


def _writes_fail(view: View, _: Culprit) -> Finding | None:
    if not view.window.columns("linux.process.syscall.errors"):
        return None
    failing = syscall_errors(view, "ENOSPC")
    rate = sum(failing.values())
    top = max(failing, key=lambda pid: failing[pid], default=0)
    told = f", most of {view.name(top)} (pid {top})" if top in view.processes else ""
    return Finding(
        value=rate,
        statement=f"{rate:.1f} calls a second fail for want of space (ENOSPC){told}",
        values={"refused": rate},
        unit="{error}/s",
        reproduce="dmesg -T | tail; " + in_logs(view, "No space left"),
        source="collectors.ebpf",
        kind="event",
        series=("linux.process.syscall.errors",),
    )


FULL = FaultModel(
    fault="fs.full",
    culprit="filesystem",
    prior=0.12,
    suspects=_full_suspects,
    features=(
        Feature(
            "space_left",
            "metric.filesystem",
            _space_left,
            Curve((0.002, 3.5), (0.01, 2.2), (0.03, 0.0), (0.06, -2.5)),
            needed=True,
        ),
        Feature("filled_by", "topology.filesystem", _filled_by, Curve((0.0, 0.0), (1.0, 0.26))),
        Feature("writes_fail", "metric.syscalls", _writes_fail, Curve((0.0, -0.3), (0.1, 1.2), (5.0, 2.0))),
    ),
    headline=lambda c, f: (
        f"{c.name} is full: {size(f['space_left'].values['free_bytes'] or 0)} of "
        f"{size(f['space_left'].values['usable_bytes'] or 0)} are left"
        + (f"; {f['filled_by'].statement}." if "filled_by" in f else ".")
    ),
    symptoms=("proc.crash_loop", "engine.down", "engine.errors"),
    effects=("system.filesystem.usage", "linux.process.syscall.errors"),
    chain=("the filesystem fills", "writes fail with ENOSPC", "programs lose data or stop"),
    severity="critical",
    actions=("fs.list_largest", "fs.free_space", "fs.grow"),
)


def _inode_suspects(view: View) -> list[Culprit]:
    shares = _shares(view, "linux.filesystem.inodes")
    chosen = sorted((m for m in shares if shares[m] > 0.9), key=lambda m: -shares[m])[:3]
    return [_culprit(view, m) for m in chosen]


def _inodes_left(view: View, culprit: Culprit) -> Finding | None:
    used, free = (
        view.window.last("linux.filesystem.inodes", mountpoint=culprit.name, state=s) for s in ("used", "free")
    )
    if np.isnan(used + free) or used + free <= 0:
        return None
    return Finding(
        value=free / (used + free),
        statement=f"{culprit.name} has {free:.0f} of {used + free:.0f} inodes left",
        values={"free": free, "inodes": used + free},
        unit="{inode}",
        reproduce=command("df -i {}", culprit.name),
        source="collectors.filesystem",
        series=(f"linux.filesystem.inodes{{mountpoint={culprit.name}, state=free}}",),
    )


def _space_remains(view: View, culprit: Culprit) -> Finding | None:
    share = _shares(view, "system.filesystem.usage").get(culprit.name)
    if share is None:
        return None
    return Finding(
        value=1.0 - share,
        statement=f"{1.0 - share:.0%} of its space is free",
        values={"free_share": 1.0 - share},
        unit="1",
        reproduce=command("df -h {}", culprit.name),
        source="collectors.filesystem",
        series=(f"system.filesystem.usage{{mountpoint={culprit.name}, state=free}}",),
    )


INODES = FaultModel(
    fault="fs.inodes",
    culprit="filesystem",
    prior=0.12,
    suspects=_inode_suspects,
    features=(
        Feature(
            "inodes_left",
            "metric.filesystem",
            _inodes_left,
            Curve((0.002, 3.5), (0.01, 2.2), (0.03, 0.0), (0.06, -2.5)),
            needed=True,
        ),
        Feature("space_remains", "metric.filesystem", _space_remains, Curve((0.0, -2.0), (0.02, 0.0), (0.1, 1.0))),
        Feature("filled_by", "topology.filesystem", _filled_by, Curve((0.0, 0.0), (1.0, 0.26))),
        Feature("writes_fail", "metric.syscalls", _writes_fail, Curve((0.0, -0.3), (0.1, 1.2), (5.0, 2.0))),
    ),
    headline=lambda c, f: (
        f"{c.name} has no inodes left ({f['inodes_left'].values['free']:.0f} of "
        f"{f['inodes_left'].values['inodes']:.0f}) though it has space"
        + (f"; {f['filled_by'].statement}." if "filled_by" in f else ".")
    ),
    symptoms=("proc.crash_loop", "engine.down"),
    effects=("linux.filesystem.inodes", "linux.process.syscall.errors"),
    chain=("very many small files", "no inode is left", "new files fail with ENOSPC"),
    severity="critical",
    actions=("fs.list_largest", "fs.free_space"),
)


def _readonly_suspects(view: View) -> list[Culprit]:
    found = [m.mountpoint for m in view.observation.after.mounts if m.failed]
    turned = [
        mountpoint
        for mountpoint, columns in view.window.entities("linux.filesystem.readonly", "mountpoint").items()
        if np.nanmax(view.window.values[:, columns]) > np.nanmin(view.window.values[:, columns])
    ]
    return [_culprit(view, m) for m in dict.fromkeys([*found, *turned])][:3]


def _went_readonly(view: View, culprit: Culprit) -> Finding | None:
    mount = _mount(view, culprit)
    state = view.window.last("linux.filesystem.readonly", mountpoint=culprit.name)
    if np.isnan(state):
        return None
    failed = bool(mount and mount.failed)
    told = "after an error" if failed else "by its mount options"
    return Finding(
        value=(1.0 if failed else 0.4) if state == 1.0 else 0.0,
        statement=f"{culprit.name} is read-only {told}" if state == 1.0 else f"{culprit.name} is writable",
        values={"readonly": state},
        unit="1",
        reproduce=command("findmnt -o TARGET,SOURCE,OPTIONS {}; dmesg -T | grep -i remount", culprit.name),
        source="collectors.filesystem",
        kind="topology",
        series=(f"linux.filesystem.readonly{{mountpoint={culprit.name}}}",),
        onset=series_onset(view.window, view.window.level("linux.filesystem.readonly", mountpoint=culprit.name)),
    )


def _fs_errors(view: View, culprit: Culprit) -> Finding | None:
    """Errors of the filesystem's device: ext4's own counter and the kernel log."""
    device = culprit.label("device") or ""
    counted = view.window.last("linux.filesystem.errors", device=device)
    risen = rise(view, "linux.filesystem.errors", device=device)
    words = (
        "Remounting filesystem read-only",
        "Aborting journal",
        "EXT4-fs error",
        "XFS (",
        "BTRFS error",
        "Corruption",
        "I/O error",
    )
    lines = [
        r
        for r in view.observation.logs
        if r.source == "kmsg"
        and device
        and device in r.text
        and any(w in r.text for w in words)
        and r.severity not in ("info", "notice", "debug")
    ]
    total = view.window.values[-1, view.window.columns("linux.filesystem.errors", device=device)]
    count = float(np.nansum(total)) if len(total) else 0.0
    if np.isnan(counted) and not lines and not len(total):
        return None
    return Finding(
        value=count + len(lines),
        statement=(
            f"{device} has recorded {count:.0f} filesystem errors ({risen:.0f} in the window); "
            f"the kernel logged {len(lines)}"
        ),
        values={"errors": count, "errors_in_window": risen, "logged": len(lines)},
        unit="{error}",
        reproduce=command("cat {}; dmesg -T | grep -F -- {}", f"/sys/fs/ext4/{device}/errors_count", device),
        source="collectors.filesystem",
        kind="log",
        onset=lines[0].time if lines else None,
    )


READONLY = FaultModel(
    fault="fs.readonly",
    culprit="filesystem",
    prior=0.15,
    suspects=_readonly_suspects,
    features=(
        Feature(
            "readonly", "topology.filesystem", _went_readonly, Curve((0.0, -4.0), (0.4, 0.3), (1.0, 3.0)), needed=True
        ),
        Feature("fs_errors", "log.kernel", _fs_errors, Curve((0.0, -1.0), (1.0, 2.0), (3.0, 3.0))),
    ),
    headline=lambda c, f: (
        f"{c.name} ({c.label('device')}) went read-only after an error"
        + (f": {f['fs_errors'].statement}." if "fs_errors" in f else ".")
    ),
    symptoms=("proc.crash_loop", "engine.down", "engine.errors"),
    effects=("linux.filesystem.readonly", "linux.filesystem.errors"),
    chain=("the filesystem met an error", "the kernel remounted it read-only", "every write fails with EROFS"),
    severity="critical",
    actions=("fs.inspect_errors", "fs.fsck_and_remount"),
)


MODELS = (FULL, INODES, READONLY)
