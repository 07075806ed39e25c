"""Memory that does not suffice: held at a steady level (exhaustion), or read again and again because the working set
does not fit (thrashing).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rca.faults.room import anon_levels, largest_in, limited_cgroups, room
from rca.faults.shared import cgroup_file, over_group, pressure, process_culprit, rise, size, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.topology import in_cgroup
from rca.view import View
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Process
from wardround.shell import command


def _refaults(view: View, path: str) -> float:
    """Working-set refaults of a cgroup (``/``: the host), pages per second."""
    if path == "/":
        return float(sum(np.nan_to_num(view.vmstat(k)) for k in ("workingset_refault_anon", "workingset_refault_file")))
    return (
        sum(
            rise(view, "linux.cgroup.memory.faults", cgroup=path, key=k)
            for k in ("workingset_refault_anon", "workingset_refault_file")
        )
        / view.seconds
    )


def _thrashing_suspects(view: View) -> list[Culprit]:
    shares = limited_cgroups(view)
    found = [(_refaults(view, path), path) for path, share in shares.items() if share > 0.7]
    found = [f for f in found if f[0] > 50]
    total = view.window.last("system.memory.limit")
    left = view.window.last("system.memory.usage", state="available") / total
    if not found and left < 0.4 and _refaults(view, "/") > 500:
        found = [(_refaults(view, "/"), "/")]
    suspects = []
    for _, path in sorted(found, reverse=True)[:3]:
        largest = _largest_faulter(view, path)
        suspects.append(Culprit("cgroup", path, largest))
    return suspects


def _largest_faulter(view: View, path: str) -> int | None:
    major = view.per_pid("process.paging.faults", type="major")
    inside = [pid for pid, p in view.users.items() if in_cgroup(p, path)]
    return max(inside, key=lambda pid: (major.get(pid, 0.0), view.users[pid].rss), default=None)


def _refault_rate(view: View, culprit: Culprit) -> Finding | None:
    rate = _refaults(view, culprit.name)
    key = "linux.cgroup.memory.faults" if culprit.name != "/" else "linux.vmstat"
    labels = (
        f"{{cgroup={culprit.name}, key=workingset_refault_file}}"
        if culprit.name != "/"
        else "{key=workingset_refault_file}"
    )
    return Finding(
        value=rate,
        statement=f"{rate:.0f} pages a second of {culprit.name} are read back soon after they were evicted",
        values={"refaults": rate},
        unit="{page}/s",
        reproduce="grep refault /proc/vmstat"
        if culprit.name == "/"
        else command("grep refault {}", cgroup_file(view, culprit.name, "memory", "memory.stat")),
        source="collectors.cgroup",
        series=(key + labels,),
        onset=None,
    )


def pinned_share(view: View, path: str) -> float:
    """Share of the memory in use that is private and stays (nothing comes back from swap): it is held, not cycled."""
    if float(np.nan_to_num(view.vmstat("pswpin"))) > 50:
        return 0.0
    if path == "/":
        used = view.window.last("system.memory.limit") - view.window.last("system.memory.usage", state="available")
        anon = view.window.last("system.memory.usage", state="anon")
    else:
        used = view.window.mean("linux.cgroup.memory.usage", cgroup=path)
        anon = view.window.mean("linux.cgroup.memory.anon", cgroup=path)
    return float(np.nan_to_num(anon / used)) if used > 0 else 0.0


def _pinned(view: View, culprit: Culprit) -> Finding | None:
    share = pinned_share(view, culprit.name)
    return Finding(
        value=share,
        statement=f"{share:.0%} of what {culprit.name} uses is private memory that stays in place",
        values={"pinned_share": share},
        unit="1",
        reproduce=command(
            "grep -E '^(rss|anon|cache|file) ' {}", cgroup_file(view, culprit.name, "memory", "memory.stat")
        ),
        source="collectors.cgroup",
        series=(f"linux.cgroup.memory.anon{{cgroup={culprit.name}}}",),
    )


def _at_limit(view: View, culprit: Culprit) -> Finding | None:
    if culprit.name == "/":
        total = view.window.last("system.memory.limit")
        share = 1.0 - view.window.last("system.memory.usage", state="available") / total
        limit = total
    else:
        limit = view.window.last("linux.cgroup.memory.limit", cgroup=culprit.name)
        share = view.window.mean("linux.cgroup.memory.usage", cgroup=culprit.name) / limit
    if np.isnan(share):
        return None
    return Finding(
        value=share,
        statement=f"{culprit.name} fills {share:.0%} of its {size(limit)}",
        values={"share": share, "limit_bytes": limit},
        unit="1",
        reproduce=(
            command("cat {}", cgroup_file(view, culprit.name, "memory", "memory.usage_in_bytes", "memory.current"))
        ),
        source="collectors.cgroup",
        series=(f"linux.cgroup.memory.usage{{cgroup={culprit.name}}}",),
    )


def _major_faults(view: View, culprit: Culprit) -> Finding | None:
    """Major faults and swap-ins of its processes: memory that had to come from a device again."""
    inside = [pid for pid, p in view.users.items() if in_cgroup(p, culprit.name)]
    rate = sum(view.per_pid("process.paging.faults", type="major").get(pid, 0.0) for pid in inside)
    swapped = float(np.nan_to_num(view.vmstat("pswpin")))
    return Finding(
        value=rate + swapped,
        statement=(
            f"its processes take {rate:.0f} major faults a second; the host swaps in {swapped:.0f} pages a second"
        ),
        values={"major_faults": rate, "swapped_in": swapped},
        unit="{fault}/s",
        reproduce="vmstat 1 5   # columns si bi; ps -eo pid,maj_flt,comm --sort=-maj_flt | head",
        source="collectors.process",
        series=("linux.vmstat{key=pgmajfault}",),
    )


THRASHING = FaultModel(
    fault="mem.thrashing",
    culprit="cgroup",
    prior=0.08,
    suspects=_thrashing_suspects,
    features=(
        Feature(
            "refaults",
            "metric.memory",
            _refault_rate,
            Curve((10.0, -3.0), (100.0, 0.0), (1000.0, 2.0), (10000.0, 3.0)),
            needed=True,
        ),
        Feature("at_limit", "metric.memory", _at_limit, Curve((0.6, -2.5), (0.85, 0.3), (0.95, 1.2)), needed=True),
        Feature("pinned", "metric.memory", _pinned, Curve((0.5, 0.4), (0.7, -0.3), (0.85, -2.5))),
        Feature("major_faults", "metric.process_memory", _major_faults, Curve((0.0, -0.8), (20.0, 0.2), (200.0, 1.2))),
        Feature("memory_pressure", "metric.memory", pressure("memory"), Curve((0.0, -1.8), (0.02, 0.0), (0.2, 1.5))),
    ),
    headline=lambda c, f: (
        f"the working set of {c.name} does not fit: at {f['at_limit'].value:.0%} of "
        f"{size(f['at_limit'].values['limit_bytes'] or 0)} it reads back "
        f"{f['refaults'].value:.0f} evicted pages a second."
    ),
    symptoms=("mem.exhaustion", "io.saturation", "io.latency", "proc.hung", "cpu.saturation", "net.backlog", "mem.oom"),
    effects=("linux.psi.memory.some", "linux.psi.io.some", "linux.cgroup.memory.faults", "system.disk.io"),
    chain=(
        "the working set exceeds the limit",
        "pages are evicted and needed again",
        "tasks wait for them from the device",
    ),
    severity="critical",
    actions=("cgroup.set_memory_limit",),
)


def _exhaustion_suspects(view: View) -> list[Culprit]:
    found: list[Process] = []
    total = view.window.last("system.memory.limit")
    available = view.window.last("system.memory.usage", state="available")
    if total > 0 and available / total < 0.12 and (largest := largest_in(view, None)):
        found.append(largest)
    for path, share in sorted(limited_cgroups(view).items(), key=lambda i: -i[1]):
        if share > 0.85 and (largest := largest_in(view, path)) and len(found) < 4:
            found.append(largest)
    return [process_culprit(view.leader(p), view.group_of(p.pid)) for p in dict.fromkeys(found)]


def _scope(view: View, culprit: Culprit) -> str | None:
    """The memory-limited cgroup the culprit fills, None for the host."""
    process = view.users.get(culprit.pid or 0)
    return room(view, process).cgroup if process else None


def _little_left(view: View, culprit: Culprit) -> Finding | None:
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    space = room(view, process)
    left = space.free / space.limit if space.limit > 0 else 1.0
    where = f"cgroup {space.cgroup}" if space.cgroup else "the host"
    return Finding(
        value=left,
        statement=f"{where} has {size(space.free)} of {size(space.limit)} left ({left:.1%})",
        values={"free_bytes": space.free, "limit_bytes": space.limit, "free_share": left},
        unit="By",
        reproduce="free -m"
        if space.cgroup is None
        else (command("cat {}", cgroup_file(view, space.cgroup, "memory", "memory.usage_in_bytes", "memory.current"))),
        source="collectors.memory" if space.cgroup is None else "collectors.cgroup",
        series=("system.memory.usage{state=available}",)
        if space.cgroup is None
        else (f"linux.cgroup.memory.usage{{cgroup={space.cgroup}}}",),
    )


def _holds_it(view: View, culprit: Culprit) -> Finding | None:
    """The culprit's private memory as a share of what is in use."""
    process = view.users.get(culprit.pid or 0)
    if process is None:
        return None
    space = room(view, process)
    anon = over_group(view, culprit, view.per_pid("linux.process.memory.anon"))
    share = anon / space.used if space.used > 0 else 0.0
    return Finding(
        value=share,
        statement=f"{who(culprit)} holds {size(anon)} of private memory, {share:.0%} of what is in use there",
        values={"anon_bytes": anon, "share": share},
        unit="By",
        reproduce=f"grep -E 'RssAnon|VmSwap' /proc/{culprit.pid}/status",
        source="collectors.process",
        series=(f"linux.process.memory.anon{{pid={culprit.pid}}}",),
    )


def _steady(view: View, culprit: Culprit) -> Finding | None:
    """Change of the culprit's private memory over the window, against its size: exhaustion is level, a leak is not."""
    _, level = anon_levels(view, culprit.pid or 0)
    if len(level) < 3 or level[-1] <= 0:
        return None
    change = float(level[-1] - level[0])
    return Finding(
        value=abs(change) / float(level[-1]),
        statement=f"its private memory changed by {size(change)} in the window",
        values={"change_bytes": change, "anon_bytes": float(level[-1])},
        unit="By",
        reproduce=f"grep RssAnon /proc/{culprit.pid}/status   # repeat",
        source="collectors.process",
        series=(f"linux.process.memory.anon{{pid={culprit.pid}}}",),
    )


def _read_back(view: View, culprit: Culprit) -> Finding | None:
    """Refaults where it lives.

    Memory that is evicted and needed again is a working set too large, not just held memory.
    """
    path = _scope(view, culprit) or "/"
    found = _refault_rate(view, Culprit("cgroup", path))
    # Page cache squeezed by held memory is read back too; then what is held is the cause.
    return replace(found, value=0.0) if found is not None and pinned_share(view, path) > 0.8 else found


def _reclaim(view: View, culprit: Culprit) -> Finding | None:
    """Reclaim under pressure: the host's scans, or a cgroup that keeps hitting its limit."""
    path = _scope(view, culprit)
    if path is None:
        rate = sum(np.nan_to_num(view.vmstat(k)) for k in ("pgscan_direct", "pgscan_kswapd"))
        what, command = "pages scanned for reclaim", "grep -E 'pgscan_(direct|kswapd) ' /proc/vmstat"
    else:
        rate = rise(view, "linux.cgroup.memory.events", cgroup=path, key="max") / view.seconds
        what = f"times a second {path} hit its limit"
        command = f"cat /sys/fs/cgroup/memory{path}/memory.failcnt /sys/fs/cgroup{path}/memory.events"
    return Finding(
        value=rate,
        statement=f"{rate:.1f} {what}" if path else f"{rate:.0f} {what} a second",
        values={"rate": rate},
        unit="{event}/s",
        reproduce=command,
        source="collectors.memory" if path is None else "collectors.cgroup",
        series=("linux.vmstat{key=pgscan_kswapd}",)
        if path is None
        else (f"linux.cgroup.memory.events{{cgroup={path}, key=max}}",),
    )


EXHAUSTION = FaultModel(
    fault="mem.exhaustion",
    culprit="process",
    prior=0.06,
    suspects=_exhaustion_suspects,
    features=(
        Feature(
            "memory_left",
            "metric.memory",
            _little_left,
            Curve((0.01, 2.2), (0.04, 1.5), (0.08, 0.0), (0.15, -3.0)),
            needed=True,
        ),
        Feature("holder", "metric.process_memory", _holds_it, Curve((0.1, -3.0), (0.35, 0.3), (0.6, 1.5)), needed=True),
        Feature("steady", "metric.process_memory", _steady, Curve((0.01, 0.8), (0.05, 0.2), (0.15, -2.5))),
        Feature(
            "memory_pressure",
            "metric.memory",
            pressure("memory"),
            Curve((0.0, -1.5), (0.01, 0.0), (0.1, 1.5), (0.4, 2.0)),
        ),
        Feature("read_back", "metric.memory", _read_back, Curve((100.0, 0.5), (1000.0, -0.5), (5000.0, -3.0))),
        Feature("reclaim", "metric.memory", _reclaim, Curve((0.0, -2.0), (0.5, 0.0), (10.0, 1.5), (1000.0, 2.0))),
    ),
    headline=lambda c, f: (
        f"{who(c)} holds {size(f['holder'].values['anon_bytes'] or 0)} and leaves "
        f"{size(f['memory_left'].values['free_bytes'] or 0)} of {size(f['memory_left'].values['limit_bytes'] or 0)}: "
        "tasks stall on memory."
    ),
    symptoms=("mem.oom", "io.saturation", "io.latency", "proc.hung", "mem.fragmentation"),
    effects=("system.memory.usage", "linux.psi.memory.some", "linux.vmstat", "linux.cgroup.memory.usage"),
    chain=("private memory fills the limit", "the kernel reclaims page cache again and again", "tasks stall on memory"),
    severity="critical",
    actions=("cgroup.set_memory_limit", "service.restart", "process.terminate"),
)


MODELS = (EXHAUSTION, THRASHING)
