"""Hardware that reports its own failure: memory through EDAC and machine checks, disks through their health."""

from __future__ import annotations

import re

import numpy as np

from rca.faults.shared import rise
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled
from wardround.models.diagnosis import Culprit
from wardround.models.records import LogRecord
from wardround.shell import command

_MACHINE_CHECK = re.compile(r"\[Hardware Error\]|mce: .*(?:Machine check|hardware error)|EDAC .* (?:CE|UE) ")
_DISK = re.compile(
    r"(?:SMART|nvme)[^\n]*(?:FAILING|failure prediction|critical warning|prefail)|"
    r"Device: /dev/(\S+?)[, ].*(?:FAILED|Prefailure|uncorrectable)"
)


def _controllers(view: View) -> dict[str, tuple[float, float]]:
    """(uncorrectable since boot, corrected in the window) by memory controller."""
    out = {}
    for name in view.window.entities("linux.edac", "controller"):
        columns = view.window.columns("linux.edac", controller=name, kind="ue")
        ue = float(np.nansum(filled(view.window.values[:, columns])[-1])) if columns else 0.0
        out[name] = (ue, rise(view, "linux.edac", controller=name, kind="ce"))
    return out


def _checks(view: View) -> list[LogRecord]:
    return [
        r
        for r in view.observation.logs
        if r.source == "kmsg" and r.unit in ("", "kernel") and _MACHINE_CHECK.search(r.text)
    ]


def _memory_suspects(view: View) -> list[Culprit]:
    found = [Culprit("device", name) for name, (ue, ce) in _controllers(view).items() if ue or ce]
    return found or ([Culprit("device", "memory")] if _checks(view) else [])


def _memory_errors(view: View, culprit: Culprit) -> Finding | None:
    ue, ce = _controllers(view).get(culprit.name, (0.0, 0.0))
    lines = _checks(view)
    return Finding(
        value=3 * ue + ce + len(lines),
        statement=(
            f"{culprit.name}: {ue:.0f} uncorrectable errors, {ce:.0f} corrected in the window, "
            f"{len(lines)} machine-check reports"
        ),
        values={"uncorrectable": ue, "corrected_in_window": ce, "reports": len(lines)},
        unit="{error}",
        reproduce="grep . /sys/devices/system/edac/mc/mc*/[cu]e_count; dmesg -T | grep -i 'hardware error'",
        source="collectors.edac",
        series=("linux.edac",),
        onset=lines[0].time if lines else None,
    )


MEMORY = FaultModel(
    fault="hardware.memory_error",
    culprit="device",
    prior=0.1,
    suspects=_memory_suspects,
    features=(
        Feature(
            "memory_errors",
            "metric.hardware",
            _memory_errors,
            Curve((0.0, -3.0), (1.0, 1.5), (3.0, 3.0), (10.0, 4.0)),
            needed=True,
        ),
    ),
    headline=lambda c, f: f"memory hardware reports errors: {f['memory_errors'].statement}.",
    symptoms=("proc.crash_loop", "kernel.memory_corruption", "engine.down"),
    effects=("linux.edac", "linux.mce"),
    chain=("a memory module fails", "errors are corrected until they cannot be"),
    severity="critical",
    actions=("host.inspect_memory",),
)


def _health_lines(view: View) -> list[tuple[LogRecord, str]]:
    found = []
    for record in view.observation.logs:
        if match := _DISK.search(record.text):
            named = match.group(1) or next(iter(re.findall(r"\b(nvme\d+(?:n\d+)?|sd[a-z]+)\b", record.text)), "")
            if named:
                found.append((record, named))
    return found


def _disk_suspects(view: View) -> list[Culprit]:
    return [Culprit("device", name) for name in dict.fromkeys(name for _, name in _health_lines(view))][:3]


def _disk_health(view: View, culprit: Culprit) -> Finding | None:
    lines = [r for r, name in _health_lines(view) if name == culprit.name]
    if not lines:
        return None
    kernel = sum(1 for r in lines if r.source == "kmsg")
    return Finding(
        value=len(lines) + 2.0 * kernel,
        statement=f"{len(lines)} reports of failing health of {culprit.name}, {kernel} of them by the kernel",
        values={"reports": len(lines), "by_kernel": kernel},
        unit="{event}",
        reproduce=command("smartctl -H {}; nvme smart-log {}", f"/dev/{culprit.name}", f"/dev/{culprit.name}"),
        source="collectors.kmsg" if kernel else "collectors.logfiles",
        kind="log",
        trust="kernel" if kernel else "text",
        onset=lines[0].time,
    )


DISK = FaultModel(
    fault="hardware.disk",
    culprit="device",
    prior=0.1,
    suspects=_disk_suspects,
    features=(
        Feature("disk_health", "log.kernel", _disk_health, Curve((0.0, -3.0), (1.0, 1.5), (3.0, 3.0)), needed=True),
    ),
    headline=lambda c, f: f"the disk {c.name} reports its own failure: {f['disk_health'].statement}.",
    symptoms=("io.device_error", "io.latency", "fs.readonly"),
    effects=("system.disk.operation_time", "linux.disk.errors"),
    chain=("the disk wears out", "sectors cannot be read", "errors reach the filesystem"),
    severity="critical",
    actions=("io.inspect_device",),
)


MODELS = (MEMORY, DISK)
