"""Block I/O: a device at its limit because of volume, a device that is slow without it, a device that fails.

Saturation and latency both make requests slow. They are told apart by what is offered: a saturated device moves
much or has a deep queue fed by few processes; a slow one takes long over little. Throttled requests wait before
the device sees them, so the time that processes wait is asked beside the time the device takes.
"""

from __future__ import annotations

import re

import numpy as np

from rca.faults.shared import cgroup_file, over_group, pressure, process_culprit, rise, size, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, per_view, series_onset
from wardround.models.diagnosis import Culprit
from wardround.shell import command


def _rate(view: View, name: str, device: str, **labels: object) -> float:
    return rise(view, name, device=device, **labels) / view.seconds


def utilization(view: View, device: str) -> float:
    """Share of the window with requests in flight."""
    return min(_rate(view, "system.disk.io_time", device), 1.0)


def queue(view: View, device: str) -> float:
    """Mean requests in flight."""
    return _rate(view, "linux.disk.queue_time", device)


def operations(view: View, device: str) -> float:
    """Requests completed a second (reads and writes)."""
    return sum(_rate(view, "system.disk.operations", device, direction=d) for d in ("read", "write"))


def volume(view: View, device: str) -> float:
    """Bytes moved a second (reads and writes)."""
    return sum(_rate(view, "system.disk.io", device, direction=d) for d in ("read", "write"))


def service_time(view: View, device: str) -> float:
    """Mean seconds from issue to completion of a request; NaN where none completed."""
    took = sum(rise(view, "system.disk.operation_time", device=device, direction=d) for d in ("read", "write"))
    count = sum(rise(view, "system.disk.operations", device=device, direction=d) for d in ("read", "write"))
    return took / count if count else float("nan")


def waited(view: View, pid: int) -> float:
    """Seconds a second that a process waited for block I/O: delay accounting, else traced off-CPU time."""
    known = view.per_pid("linux.process.blkio_delay").get(pid, 0.0)
    return known or view.per_pid("linux.process.offcpu", reason="io").get(pid, 0.0)


def _devices(view: View) -> list[str]:
    return sorted(view.window.entities("system.disk.io_time", "device"))


@per_view
def issuers(view: View, device: str) -> dict[int, float]:
    """Bytes a second by process on a device (traced); by process on any device where tracing is off.

    What kernel workers write back, and what children moved that were gone before they could be listed, is given to
    those whose own account (which takes in their children's) holds more than was traced of them.
    """
    accounts = {pid: rate for pid, rate in view.per_pid("process.disk.io").items() if pid in view.users and rate > 0}
    traced = view.per_pid("linux.disk.process_io", device=device)
    if not traced:
        return accounts
    share = {pid: rate for pid, rate in traced.items() if pid in view.users}
    for_others = max(volume(view, device), sum(traced.values())) - sum(share.values())
    everywhere = view.per_pid("linux.disk.process_io")
    beyond = {pid: max(rate - everywhere.get(pid, 0.0), 0.0) for pid, rate in accounts.items()}
    scale = min(for_others / max(sum(beyond.values()), 1.0), 1.0)
    for pid, rate in beyond.items():
        if rate * scale > 0:
            share[pid] = share.get(pid, 0.0) + rate * scale
    return share


# --- saturation ---


def _saturation_suspects(view: View) -> list[Culprit]:
    found: list[tuple[float, Culprit]] = []
    for device in _devices(view):
        busy = utilization(view, device)
        share = issuers(view, device)
        if busy < 0.5 or not share:
            continue
        by_group: dict[int, float] = {}
        for pid, rate in share.items():
            leader = view.leader(view.users[pid]).pid
            by_group[leader] = by_group.get(leader, 0.0) + rate
        top = max(by_group, key=lambda pid: by_group[pid])
        culprit = process_culprit(view.users[top], view.group_of(top))
        found.append((busy, Culprit("process", culprit.name, culprit.pid, (*culprit.labels, ("device", device)))))
    best: dict[int | None, Culprit] = {}
    for _, culprit in sorted(found, key=lambda f: -f[0]):
        best.setdefault(culprit.pid, culprit)
    return list(best.values())[:3]


def _busy(view: View, culprit: Culprit) -> Finding | None:
    device = culprit.label("device") or culprit.name
    if not view.window.columns("system.disk.io_time", device=device):
        return None
    busy = utilization(view, device)
    return Finding(
        value=busy,
        statement=f"{device} had requests in flight {busy:.0%} of the time",
        values={"busy_share": busy},
        unit="1",
        baseline={"busy_share_since_boot": view.window.since_boot(view.uptime, "system.disk.io_time", device=device)},
        reproduce=command("iostat -x {} 1 5 || grep -w -F -- {} /proc/diskstats", device, device),
        source="collectors.block",
        series=(f"system.disk.io_time{{device={device}}}",),
        onset=series_onset(view.window, view.window.level("system.disk.io_time", device=device)),
    )


def _deep_queue(view: View, culprit: Culprit) -> Finding | None:
    device = culprit.label("device") or culprit.name
    if not view.window.columns("linux.disk.queue_time", device=device):
        return None
    depth, took = queue(view, device), service_time(view, device)
    took = 0.0 if np.isnan(took) else took
    return Finding(
        value=depth,
        statement=f"{depth:.1f} requests are in flight on {device} on average, each takes {1e3 * took:.1f} ms",
        values={"in_flight": depth, "seconds_per_request": took},
        unit="{operation}",
        reproduce=command("iostat -x {} 1 5   # columns aqu-sz, await", device),
        source="collectors.block",
        series=(f"linux.disk.queue_time{{device={device}}}",),
    )


def _volume(view: View, culprit: Culprit) -> Finding | None:
    """What is offered to the device, against what it moved on average since boot."""
    device = culprit.label("device") or culprit.name
    moved, requests = volume(view, device), operations(view, device)
    if not view.window.columns("system.disk.io", device=device):
        return None
    # A request rate or a byte rate that keeps any disk occupied; either one is load.
    load = max(moved / 50e6, requests / 500.0)
    return Finding(
        value=load,
        statement=f"{device} serves {requests:.0f} requests and {size(moved)} a second",
        values={"requests": requests, "bytes": moved},
        unit="By/s",
        baseline={"bytes_since_boot": view.window.since_boot(view.uptime, "system.disk.io", device=device)},
        reproduce=command("iostat -x {} 1 5", device),
        source="collectors.block",
        series=(
            f"system.disk.io{{device={device}, direction=write}}",
            f"system.disk.io{{device={device}, direction=read}}",
        ),
    )


def _issues_it(view: View, culprit: Culprit) -> Finding | None:
    device = culprit.label("device")
    if device is None:
        return None
    share = issuers(view, device)
    own = over_group(view, culprit, share)
    total = max(volume(view, device), sum(share.values()))
    if total <= 0:
        return None
    return Finding(
        value=min(own / total, 1.0),
        statement=f"{who(culprit)} moves {size(own)} a second, {min(own / total, 1.0):.0%} of what {device} moves",
        values={"bytes": own, "share": min(own / total, 1.0)},
        unit="By/s",
        reproduce=f"iotop -b -n 3 -p {culprit.pid} || cat /proc/{culprit.pid}/io",
        source="collectors.ebpf" if view.window.columns("linux.disk.process_io") else "collectors.process",
        series=(
            f"process.disk.io{{direction=write, pid={culprit.pid}}}",
            f"process.disk.io{{direction=read, pid={culprit.pid}}}",
        ),
    )


SATURATION = FaultModel(
    fault="io.saturation",
    culprit="process",
    prior=0.08,
    suspects=_saturation_suspects,
    features=(
        Feature(
            "device_busy",
            "metric.block",
            _busy,
            Curve((0.5, -3.0), (0.65, -0.5), (0.75, 0.5), (0.9, 1.0), (0.97, 1.6)),
            needed=True,
            ask="the device is never idle: `iostat -x 1`, column %util",
        ),
        Feature("device_queue", "metric.block", _deep_queue, Curve((0.8, -1.5), (1.5, 0.0), (4.0, 1.2), (16.0, 2.0))),
        Feature("device_load", "metric.block", _volume, Curve((0.1, -2.5), (0.5, -0.5), (1.0, 0.8), (3.0, 1.5))),
        Feature(
            "io_share",
            "metric.process_io",
            _issues_it,
            Curve((0.2, -2.5), (0.5, 0.5), (0.8, 1.5)),
            needed=True,
            ask="one program issues most of it: `iotop`",
        ),
        Feature("io_pressure", "metric.block", pressure("io"), Curve((0.02, -2.0), (0.2, 0.0), (0.6, 1.2))),
    ),
    headline=lambda c, f: (
        f"{who(c)} keeps {c.label('device')} at its limit: {f['device_load'].statement.partition(' serves ')[2]}, "
        f"busy {f['device_busy'].value:.0%} of the time."
    ),
    symptoms=("io.latency", "proc.hung", "net.backlog", "engine.down", "mem.thrashing"),
    effects=("system.disk.io_time", "linux.disk.queue_time", "linux.psi.io.some", "linux.disk.latency"),
    chain=(
        "more requests than the device serves",
        "requests queue in front of it",
        "everyone who reads or syncs waits",
    ),
    severity="warning",
    actions=("io.limit_process", "process.terminate"),
)


# --- latency ---


def _latency_suspects(view: View) -> list[Culprit]:
    found: dict[str, float] = {}
    for device in _devices(view):
        took = service_time(view, device)
        if took > 0.02 or (utilization(view, device) > 0.3 and operations(view, device) < 200):
            found[device] = max(took, 0.0) if not np.isnan(took) else utilization(view, device)
    for device, wait in _throttled_devices(view).items():
        found[device] = max(found.get(device, 0.0), wait)
    chosen = sorted(found, key=lambda d: -found[d])[:3]
    return [Culprit("device", device) for device in chosen]


def _limited_on(view: View, device: str) -> list[tuple[str, str]]:
    """(cgroup, limit) of every cgroup I/O limit on a device; a limit reads ``<device> <what> <number>``."""
    groups = view.observation.after.cgroups.values()
    return [(g.path, limit) for g in groups for limit in g.io_limits if limit.split()[0] == device]


def _members(view: View, path: str) -> list[int]:
    return [pid for pid, p in view.users.items() if any(own == path for _, own in p.cgroups)]


def _throttled_devices(view: View) -> dict[str, float]:
    """Devices with a cgroup I/O limit whose members wait for I/O, and how long they wait (seconds a second)."""
    out: dict[str, float] = {}
    for cgroup in view.observation.after.cgroups.values():
        wait = max((waited(view, pid) for pid in _members(view, cgroup.path)), default=0.0)
        if wait > 0.05:
            out.update({limit.split()[0]: wait for limit in cgroup.io_limits})
    return out


@per_view
def _users_of(view: View, device: str) -> list[int]:
    """Processes that move data on a device or are limited on it, the one that waits longest first."""
    users = {pid for pid in view.per_pid("linux.disk.process_io", device=device) if pid in view.users}
    users |= {pid for path, _ in _limited_on(view, device) for pid in _members(view, path)}
    return sorted(users, key=lambda pid: -waited(view, pid))


def _slow(view: View, culprit: Culprit) -> Finding | None:
    """Time per request: the device's own, or where requests are held back before it, what its users wait for each."""
    device = culprit.name
    took = service_time(view, device)
    took = 0.0 if np.isnan(took) else took
    users = _users_of(view, device)
    done = operations(view, device)
    wait = max((waited(view, pid) for pid in users), default=0.0)
    felt = wait / done if done > 0 else wait
    worst = max(took, felt)
    return Finding(
        value=worst,
        statement=(
            f"a request to {device} takes {1e3 * took:.1f} ms in the device; "
            f"its users wait {1e3 * felt:.1f} ms for each"
        ),
        values={"seconds_per_request": took, "seconds_waited_per_request": felt},
        unit="s",
        reproduce=command("iostat -x {} 1 5   # columns r_await, w_await", device),
        source="collectors.block",
        series=(
            f"system.disk.operation_time{{device={device}, direction=read}}",
            f"system.disk.operation_time{{device={device}, direction=write}}",
        ),
        onset=series_onset(view.window, view.window.level("system.disk.operation_time", device=device)),
    )


def _little_offered(view: View, culprit: Culprit) -> Finding | None:
    """Load offered: requests, bytes and queue depth; a slow device is slow over little."""
    moved, requests, depth = volume(view, culprit.name), operations(view, culprit.name), queue(view, culprit.name)
    # Requests held back before the device are offered all the same: waiters are requests (Little's law).
    depth = max(depth, sum(waited(view, pid) for pid in _users_of(view, culprit.name)))
    load = max(moved / 50e6, requests / 500.0, depth / 5.0)
    return Finding(
        value=load,
        statement=(
            f"{culprit.name} is offered {requests:.0f} requests and {size(moved)} a second, {depth:.1f} in flight"
        ),
        values={"requests": requests, "bytes": moved, "in_flight": depth},
        unit="{operation}/s",
        reproduce=command("iostat -x {} 1 5", culprit.name),
        source="collectors.block",
        series=(
            f"system.disk.operations{{device={culprit.name}, direction=read}}",
            f"system.disk.operations{{device={culprit.name}, direction=write}}",
        ),
    )


def _users_wait(view: View, culprit: Culprit) -> Finding | None:
    """Share of time that the device's most patient user waits for I/O."""
    users = _users_of(view, culprit.name)
    if not users:
        return None
    wait = waited(view, users[0])
    return Finding(
        value=min(wait, 1.0),
        statement=f"{view.name(users[0])} (pid {users[0]}) waits for I/O {min(wait, 1.0):.0%} of the time",
        values={"waiting_share": min(wait, 1.0)},
        unit="1",
        reproduce=(
            f"cat /proc/{users[0]}/wchan; awk '{{print $42}}' /proc/{users[0]}/stat   # ticks waited for block I/O"
        ),
        source="collectors.process",
        series=(f"linux.process.blkio_delay{{pid={users[0]}}}",),
    )


def _held_back(view: View, culprit: Culprit) -> Finding | None:
    """A cgroup's I/O limit on the device whose members wait: then the limit is what makes it slow."""
    limits = [(path, limit) for path, limit in _limited_on(view, culprit.name) if _members(view, path)]
    if not limits:
        return None
    path, limit = limits[0]
    return Finding(
        value=1.0,
        statement=f"cgroup {path} is limited on this device: {limit}",
        values={f"n{i}": float(n) for i, n in enumerate(re.findall(r"\d+", limit))},
        unit="1",
        reproduce=command("cd {} && grep -s . blkio.throttle.*_device io.max", cgroup_file(view, path, "blkio")),
        source="collectors.cgroup",
        kind="topology",
    )


LATENCY = FaultModel(
    fault="io.latency",
    culprit="device",
    prior=0.08,
    suspects=_latency_suspects,
    features=(
        Feature(
            "request_time",
            "metric.block",
            _slow,
            Curve((0.005, -3.0), (0.02, -0.5), (0.05, 1.2), (0.2, 2.5)),
            needed=True,
            ask="requests take long: `iostat -x 1`, columns r_await and w_await",
        ),
        Feature(
            "little_offered", "metric.block", _little_offered, Curve((0.2, 1.2), (0.6, 0.5), (1.2, -1.0), (3.0, -3.0))
        ),
        Feature("users_wait", "metric.process_io", _users_wait, Curve((0.02, -1.5), (0.15, 0.0), (0.5, 1.5))),
        Feature("held_back", "topology.cgroup", _held_back, Curve((0.0, 0.0), (1.0, 1.0))),
        Feature("io_pressure", "metric.block", pressure("io"), Curve((0.01, -1.0), (0.1, 0.0), (0.4, 0.8))),
    ),
    headline=lambda c, f: (
        f"{c.name} answers slowly though little is asked of it: "
        f"{f['request_time'].statement.partition(': ')[2] or f['request_time'].statement}."
    ),
    symptoms=("proc.hung", "net.backlog", "engine.down", "fs.readonly"),
    effects=("system.disk.operation_time", "linux.psi.io.some", "linux.disk.latency", "linux.process.blkio_delay"),
    chain=("each request takes long", "processes wait in uninterruptible sleep", "what they serve slows"),
    severity="warning",
    actions=("io.lift_throttle", "io.inspect_device"),
)


# --- device errors ---

_DEVICE_ERROR = re.compile(
    r"(?:I/O error|critical \w+ error|Medium Error|blk_update_request: \w[\w ]* error)[^\n]*?dev(?:ice)? (\w[\w/-]*)"
)


@per_view
def _failures(view: View) -> dict[str, list[float]]:
    """Times of block errors that the kernel logged since ten minutes before the window, by device."""
    found: dict[str, list[float]] = {}
    for record in view.observation.logs:
        if (
            record.source == "kmsg"
            and record.time > view.observation.start - 600
            and (m := _DEVICE_ERROR.search(record.text))
        ):
            found.setdefault(m.group(1).removeprefix("/dev/"), []).append(record.time)
    return found


def _error_suspects(view: View) -> list[Culprit]:
    devices = {**{d: len(t) for d, t in _failures(view).items()}, **_failed_requests(view)}
    return [Culprit("device", d) for d in sorted(devices, key=lambda d: -devices[d])[:3] if devices[d]]


def _failed_requests(view: View) -> dict[str, int]:
    return {
        d: int(n)
        for d in view.window.entities("linux.disk.errors", "device")
        if (n := rise(view, "linux.disk.errors", device=d)) > 0
    }


def _errors_logged(view: View, culprit: Culprit) -> Finding | None:
    times = _failures(view).get(culprit.name, [])
    return Finding(
        value=float(len(times)),
        statement=f"the kernel logged {len(times)} I/O errors of {culprit.name}",
        values={"errors": len(times)},
        unit="{error}",
        reproduce=command("dmesg -T | grep -i error | grep -F -- {}", culprit.name),
        source="collectors.kmsg",
        kind="log",
        onset=times[0] if times else None,
    )


def _requests_failed(view: View, culprit: Culprit) -> Finding | None:
    if not view.window.columns("linux.disk.errors"):
        return None
    failed = _failed_requests(view).get(culprit.name, 0)
    return Finding(
        value=float(failed),
        statement=f"{failed} requests to {culprit.name} failed in the window",
        values={"failed": failed},
        unit="{error}",
        reproduce=command(
            "cat {}; dmesg -T | grep -F -- {}", f"/sys/block/{culprit.name}/device/ioerr_cnt", culprit.name
        ),
        source="collectors.ebpf",
        kind="event",
        series=(f"linux.disk.errors{{device={culprit.name}}}",),
    )


DEVICE_ERROR = FaultModel(
    fault="io.device_error",
    culprit="device",
    prior=0.1,
    suspects=_error_suspects,
    features=(
        Feature("errors_logged", "log.kernel", _errors_logged, Curve((0.0, -2.0), (1.0, 2.5), (5.0, 4.0)), needed=True),
        Feature("requests_failed", "metric.block", _requests_failed, Curve((0.0, -0.5), (1.0, 1.5), (5.0, 2.5))),
    ),
    headline=lambda c, f: f"{c.name} fails: {f['errors_logged'].statement}.",
    symptoms=("fs.readonly", "io.latency", "proc.hung", "proc.crash_loop"),
    effects=("linux.filesystem.errors", "linux.disk.errors"),
    chain=("the device fails requests", "filesystems on it lose writes", "they go read-only"),
    severity="critical",
    actions=("io.inspect_device", "fs.fsck_and_remount"),
)


MODELS = (SATURATION, LATENCY, DEVICE_ERROR)
