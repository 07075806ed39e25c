"""Accelerators, as NVML reports them: memory errors, held-down clocks, lost devices, full memory, degraded links."""

from __future__ import annotations

import re

import numpy as np

from rca.faults.shared import in_logs, process_culprit, rise, size, times, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled
from wardround.models.diagnosis import Culprit

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
# Xid numbers after which the device is gone or its driver gave up (NVIDIA's Xid catalogue).
_LOST = {79, 119, 120, 62, 61}


def _gpus(view: View) -> list[str]:
    return sorted(view.window.entities("hw.gpu.memory.limit", "gpu"))


def _last_errors(view: View, gpu: str, kind: str) -> tuple[float, float]:
    """(count now, rise in the window) of one kind of error."""
    columns = view.window.columns("hw.gpu.errors", gpu=gpu, kind=kind)
    now = float(np.nansum(filled(view.window.values[:, columns])[-1])) if columns else 0.0
    return now, rise(view, "hw.gpu.errors", gpu=gpu, kind=kind)


def _memory_suspects(view: View) -> list[Culprit]:
    return [
        Culprit("device", g)
        for g in _gpus(view)
        if _last_errors(view, g, "uncorrected")[0] or _last_errors(view, g, "corrected")[1]
    ]


def _ecc(view: View, culprit: Culprit) -> Finding | None:
    uncorrected, _ = _last_errors(view, culprit.name, "uncorrected")
    _, rising = _last_errors(view, culprit.name, "corrected")
    remapped, _ = _last_errors(view, culprit.name, "remapped_rows")
    return Finding(
        value=uncorrected * 2 + rising + remapped,
        statement=(
            f"{culprit.name} counts {uncorrected:.0f} uncorrected errors, {remapped:.0f} remapped rows "
            f"and {rising:.0f} new corrected errors"
        ),
        values={"uncorrected": uncorrected, "remapped_rows": remapped, "corrected_in_window": rising},
        unit="{error}",
        reproduce="nvidia-smi -q -d ECC,ROW_REMAPPER",
        source="collectors.nvml",
        series=(f"hw.gpu.errors{{gpu={culprit.name}, kind=uncorrected}}",),
    )


MEMORY_ERROR = FaultModel(
    fault="accelerator.memory_error",
    culprit="device",
    prior=0.1,
    suspects=_memory_suspects,
    features=(
        Feature("ecc", "metric.gpu", _ecc, Curve((0.0, -3.0), (1.0, 1.0), (2.0, 2.5), (10.0, 4.0)), needed=True),
    ),
    headline=lambda c, f: f"the memory of {c.name} is failing: {f['ecc'].statement}.",
    symptoms=("engine.down", "engine.errors", "accelerator.lost"),
    effects=("hw.gpu.errors",),
    chain=("memory cells fail", "results are wrong or the driver stops the work"),
    actions=("accelerator.inspect", "accelerator.drain"),
)


def _throttle_suspects(view: View) -> list[Culprit]:
    return [Culprit("device", g) for g in _gpus(view) if view.window.mean("hw.gpu.throttle", gpu=g) > 0]


def _held(view: View, culprit: Culprit) -> Finding | None:
    reasons = {
        r: view.window.mean("hw.gpu.throttle", gpu=culprit.name, reason=r)
        for r in view.window.entities("hw.gpu.throttle", "reason", gpu=culprit.name)
    }
    if not reasons:
        return None
    reason = max(reasons, key=lambda r: reasons[r])
    busy = view.window.mean("hw.gpu.utilization", gpu=culprit.name)
    return Finding(
        value=reasons[reason] * (1.0 if busy > 0.3 else 0.2),
        statement=(
            f"clocks of {culprit.name} are held down for {reason} {reasons[reason]:.0%} of the time, "
            f"it is {busy:.0%} busy"
        ),
        values={"held_share": reasons[reason], "busy_share": busy},
        unit="1",
        reproduce="nvidia-smi -q -d PERFORMANCE,CLOCK",
        source="collectors.nvml",
        series=(f"hw.gpu.clock{{gpu={culprit.name}}}",),
    )


THROTTLED = FaultModel(
    fault="accelerator.throttled",
    culprit="device",
    prior=0.08,
    suspects=_throttle_suspects,
    features=(
        Feature("held", "metric.gpu", _held, Curve((0.1, -3.0), (0.3, 0.0), (0.6, 2.5), (0.9, 3.5)), needed=True),
    ),
    headline=lambda c, f: f"{f['held'].statement}.",
    effects=("hw.gpu.clock", "hw.gpu.temperature", "hw.gpu.power"),
    chain=("heat or power reaches its limit", "the clock is held down", "tokens come slowly"),
    severity="warning",
    actions=("host.inspect_cooling",),
)


def _xids(view: View) -> list[tuple[float, str, int]]:
    return [
        (r.time, m.group(1), int(m.group(2)))
        for r in view.observation.logs
        if r.source == "kmsg" and (m := _XID.search(r.text))
    ]


def _lost_suspects(view: View) -> list[Culprit]:
    return [Culprit("device", device) for device in dict.fromkeys(d for _, d, number in _xids(view) if number in _LOST)]


def _fatal_xid(view: View, culprit: Culprit) -> Finding | None:
    seen = [(t, number) for t, d, number in _xids(view) if d == culprit.name and number in _LOST]
    if not seen:
        return None
    return Finding(
        value=float(len(seen)),
        statement=f"the driver reported Xid {seen[-1][1]} for {culprit.name} {times(len(seen))}",
        values={"xid": seen[-1][1], "reports": len(seen)},
        unit="{event}",
        reproduce="dmesg -T | grep Xid; nvidia-smi",
        source="collectors.kmsg",
        kind="log",
        onset=seen[0][0],
    )


LOST = FaultModel(
    fault="accelerator.lost",
    culprit="device",
    prior=0.15,
    suspects=_lost_suspects,
    features=(Feature("xid", "log.kernel", _fatal_xid, Curve((0.0, -3.0), (1.0, 3.5)), needed=True),),
    headline=lambda c, f: f"the device {c.name} is lost: {f['xid'].statement}.",
    symptoms=("engine.down", "engine.errors", "proc.crash_loop", "proc.hung"),
    effects=("hw.gpu.utilization",),
    chain=("the device fell off the bus or its driver failed", "everything that used it stops"),
    actions=("accelerator.inspect", "accelerator.drain"),
)


def _full_suspects(view: View) -> list[Culprit]:
    suspects = []
    for gpu in _gpus(view):
        used, total = view.window.last("hw.gpu.memory.usage", gpu=gpu), view.window.last("hw.gpu.memory.limit", gpu=gpu)
        held = {
            pid: view.window.last("hw.gpu.process.memory", gpu=gpu, pid=pid)
            for pid in view.window.entities("hw.gpu.process.memory", "pid", gpu=gpu)
        }
        if total > 0 and used / total > 0.95 and held:
            pid = int(max(held, key=lambda p: held[p]))
            if pid in view.users:
                base = process_culprit(view.users[pid])
                suspects.append(Culprit("process", base.name, pid, (*base.labels, ("gpu", gpu))))
    return suspects


def _device_memory(view: View, culprit: Culprit) -> Finding | None:
    gpu = culprit.label("gpu")
    used, total = view.window.last("hw.gpu.memory.usage", gpu=gpu), view.window.last("hw.gpu.memory.limit", gpu=gpu)
    own = view.window.last("hw.gpu.process.memory", gpu=gpu, pid=culprit.pid)
    if np.isnan(used + total):
        return None
    return Finding(
        value=used / total,
        statement=f"{gpu} uses {size(used)} of {size(total)}, {size(own)} of it {who(culprit)}",
        values={"used_bytes": used, "limit_bytes": total, "own_bytes": own},
        unit="By",
        reproduce="nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
        source="collectors.nvml",
        series=(f"hw.gpu.memory.usage{{gpu={gpu}}}",),
    )


def _allocation_failed(view: View, culprit: Culprit) -> Finding | None:
    """Engines reserve most of the device on purpose; only a refused allocation makes full memory a fault."""
    lines = [
        r
        for r in view.observation.logs
        if "out of memory" in r.text.lower() and ("cuda" in r.text.lower() or "hip" in r.text.lower())
    ]
    return Finding(
        value=float(len(lines)),
        statement=f"{len(lines)} log lines tell of a refused device allocation",
        values={"lines": len(lines)},
        unit="{event}",
        reproduce=in_logs(view, "out of memory"),
        source="collectors.logfiles",
        kind="log",
        trust="text",
        onset=lines[0].time if lines else None,
    )


MEMORY_FULL = FaultModel(
    fault="accelerator.memory_full",
    culprit="process",
    prior=0.08,
    suspects=_full_suspects,
    features=(
        Feature(
            "device_memory", "metric.gpu", _device_memory, Curve((0.9, -3.0), (0.96, 0.3), (0.99, 1.0)), needed=True
        ),
        Feature(
            "allocation_failed", "log.text", _allocation_failed, Curve((0.0, -2.0), (1.0, 2.0), (3.0, 3.0)), needed=True
        ),
    ),
    headline=lambda c, f: f"device memory is used up: {f['device_memory'].statement}.",
    symptoms=("engine.errors", "engine.down"),
    effects=("hw.gpu.memory.usage",),
    chain=("device memory is used up", "allocations are refused", "requests fail"),
    actions=("service.restart",),
)


def _link_suspects(view: View) -> list[Culprit]:
    return [Culprit("device", g) for g in _gpus(view) if _last_errors(view, g, "pcie_replay")[1] > 5]


def _replays(view: View, culprit: Culprit) -> Finding | None:
    _, rising = _last_errors(view, culprit.name, "pcie_replay")
    return Finding(
        value=rising,
        statement=f"the PCIe link of {culprit.name} replayed {rising:.0f} packets in the window",
        values={"replays": rising},
        unit="{error}",
        reproduce="nvidia-smi -q -d PCIE || nvidia-smi -q | grep -i replay",
        source="collectors.nvml",
        series=(f"hw.gpu.errors{{gpu={culprit.name}, kind=pcie_replay}}",),
    )


LINK = FaultModel(
    fault="accelerator.link",
    culprit="device",
    prior=0.06,
    suspects=_link_suspects,
    features=(Feature("replays", "metric.gpu", _replays, Curve((1.0, -3.0), (10.0, 0.5), (100.0, 3.0)), needed=True),),
    headline=lambda c, f: f"the link of {c.name} is degraded: {f['replays'].statement}.",
    symptoms=("accelerator.lost",),
    effects=("hw.gpu.errors",),
    chain=("the link drops packets", "transfers are repeated", "the device waits for data"),
    severity="warning",
    actions=("accelerator.inspect", "accelerator.drain"),
)


MODELS = (MEMORY_ERROR, THROTTLED, LOST, MEMORY_FULL, LINK)
