"""CPU: saturation, throttling, affinity, steal, frequency, interrupt load.

They are told apart by who waits and what idles: saturation leaves no CPU idle, throttling and affinity do.
"""

from __future__ import annotations

import numpy as np

from rca.faults.shared import cgroup_file, group_culprits, over_group, pressure, rise, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.topology import pids_behind
from rca.view import View, per_view, series_onset
from wardround.models.diagnosis import Culprit
from wardround.shell import command

_HOST_CPU = "collectors.host"


# --- questions about the host ---


def _no_idle(view: View, _: Culprit) -> Finding | None:
    if not view.cpu_shares:
        return None
    return Finding(
        value=view.idle,
        statement=f"the CPUs idled {view.idle:.0%} of the window",
        values={"idle_share": view.idle},
        unit="1",
        reproduce="grep '^cpu' /proc/stat; vmstat 1 5",
        source=_HOST_CPU,
        series=("linux.tasks.runnable",),
    )


def _excess(view: View, _: Culprit) -> Finding | None:
    """CPUs used plus CPUs waited for, against CPUs there are."""
    delay = sum(view.run_delay.values())
    used = (1.0 - view.idle) * view.cpus if view.cpu_shares else float("nan")
    if np.isnan(used) or not view.run_delay:
        return None
    demand = (used + delay) / view.cpus
    return Finding(
        value=demand,
        statement=f"tasks wanted {used + delay:.1f} CPUs, {view.cpus} are there ({delay:.1f} were waited for)",
        values={"wanted": used + delay, "cpus": view.cpus, "waited_for": delay, "demand_ratio": demand},
        unit="{cpu}",
        reproduce="cat /proc/schedstat; vmstat 1 5   # column r",
        source="collectors.process",
        series=("linux.tasks.runnable",),
        onset=series_onset(view.window, view.window.level("linux.tasks.runnable")),
    )


def _culprit_share(view: View, culprit: Culprit) -> Finding | None:
    """The culprit's part of all demand for CPU."""
    used, waited = over_group(view, culprit, view.cpu), over_group(view, culprit, view.run_delay)
    total = sum(view.cpu.values()) + sum(view.run_delay.values())
    if total <= 0:
        return None
    share = (used + waited) / total
    return Finding(
        value=share,
        statement=f"{who(culprit)} makes {share:.0%} of the demand: it uses {used:.2f} CPUs and waits for {waited:.2f}",
        values={"share_of_demand": share, "cpus_used": used, "cpus_waited_for": waited},
        unit="1",
        reproduce=f"pidstat -u -p {culprit.pid} 1 5 || cat /proc/{culprit.pid}/schedstat",
        source="collectors.process",
        series=tuple(f"process.cpu.time{{pid={culprit.pid}, state={s}}}" for s in ("user",)),
        onset=_cpu_onset(view, culprit),
    )


def _cpu_onset(view: View, culprit: Culprit) -> float | None:
    """When the culprit began to use the CPU: its own start if that lies in reach of the window, else a change seen."""
    process = view.processes.get(culprit.pid or 0)
    if process is None:
        return None
    if process.start >= view.observation.start - 600:
        return process.start
    return series_onset(view.window, view.pid_levels("process.cpu.time", process.pid))


def _gentle(view: View, culprit: Culprit) -> Finding | None:
    """Whether the culprit runs at low priority: then it takes only what nobody wants."""
    if culprit.pid is None or culprit.pid not in view.processes:
        return None
    process = view.group_of(culprit.pid).leader
    members = view.group_of(culprit.pid).members
    busy = max(members, key=lambda p: view.cpu.get(p.pid, 0.0), default=process)
    gentle = busy.nice >= 5 or busy.policy in ("idle", "batch")
    return Finding(
        value=1.0 if gentle else 0.0,
        statement=f"{who(culprit)} runs with nice {busy.nice}, scheduling policy {busy.policy}",
        values={"nice": busy.nice},
        unit="1",
        reproduce=f"ps -o pid,ni,cls,comm -p {busy.pid}",
        source="collectors.process",
        kind="topology",
    )


def _saturation_suspects(view: View) -> list[Culprit]:
    demand = {pid: view.cpu.get(pid, 0.0) + view.run_delay.get(pid, 0.0) for pid in view.users}
    return group_culprits(view, lambda g: sum(demand.get(p.pid, 0.0) for p in g.members), 0.5)


SATURATION = FaultModel(
    fault="cpu.saturation",
    culprit="process",
    prior=0.08,
    suspects=_saturation_suspects,
    features=(
        Feature(
            "cpu_idle", "metric.cpu", _no_idle, Curve((0.0, 1.2), (0.03, 0.8), (0.08, -0.5), (0.2, -4.0)), needed=True
        ),
        Feature(
            "cpu_demand",
            "metric.cpu",
            _excess,
            Curve((0.7, -3.0), (1.1, -1.5), (1.5, 0.3), (2.0, 1.5), (3.0, 2.5)),
            needed=True,
            ask="runnable tasks exceed the CPUs: `vmstat 1`, column r",
        ),
        Feature("cpu_pressure", "metric.cpu", pressure("cpu"), Curve((0.1, -2.0), (0.4, -0.5), (0.7, 0.8), (0.9, 1.5))),
        Feature(
            "cpu_share",
            "metric.process_cpu",
            _culprit_share,
            Curve((0.1, -2.5), (0.3, -0.5), (0.5, 1.0), (0.8, 1.8)),
            needed=True,
            ask="one program makes most of the demand: `pidstat -u 1`",
        ),
        Feature("low_priority", "topology.process", _gentle, Curve((0.0, 0.0), (1.0, -2.5))),
    ),
    headline=lambda c, f: (
        f"{who(c)} overloads the CPUs: tasks want {f['cpu_demand'].values['wanted']:.1f} CPUs, "
        f"{f['cpu_demand'].values['cpus']} are there, and {f['cpu_share'].values['share_of_demand']:.0%} "
        "of the demand is its own."
    ),
    symptoms=("proc.hung", "net.backlog", "lock.contention", "engine.down"),
    effects=("linux.psi.cpu.some", "linux.tasks.runnable", "linux.sched.runqueue.latency", "linux.load_1m"),
    chain=("more runnable threads than CPUs", "every task queues for a CPU", "latency grows for all"),
    severity="warning",
    actions=("process.renice", "cgroup.set_cpu_quota", "process.terminate"),
)


# --- throttling ---


def _throttled(view: View, path: str) -> tuple[float, float]:
    """(throttled periods, periods) of a cgroup over the window."""
    return (
        rise(view, "linux.cgroup.cpu.throttled_periods", cgroup=path),
        rise(view, "linux.cgroup.cpu.periods", cgroup=path),
    )


def _throttling_suspects(view: View) -> list[Culprit]:
    found = []
    for path in view.window.entities("linux.cgroup.cpu.throttled_periods", "cgroup"):
        stopped, periods = _throttled(view, path)
        if stopped >= 3 and periods and stopped / periods > 0.02:
            found.append((stopped / periods, path))
    inside = {path: _busiest_in(view, path) for _, path in found}
    return [
        Culprit("cgroup", path, inside[path], (("unit", path.rsplit("/", 1)[-1]),))
        for _, path in sorted(found, reverse=True)[:3]
    ]


def _busiest_in(view: View, path: str) -> int | None:
    """The busiest process of a cgroup."""
    inside = [pid for pid, p in view.users.items() if p.cgroup("cpu") == path or p.cgroup("cpu,cpuacct") == path]
    inside = inside or [pid for pid, p in view.users.items() if any(own == path for _, own in p.cgroups)]
    return max(inside, key=lambda pid: view.cpu.get(pid, 0.0), default=None)


def _throttled_ratio(view: View, culprit: Culprit) -> Finding | None:
    stopped, periods = _throttled(view, culprit.name)
    if not periods:
        return None
    return Finding(
        value=stopped / periods,
        statement=f"the quota stopped it in {stopped:.0f} of {periods:.0f} periods ({stopped / periods:.0%})",
        values={"throttled_periods": stopped, "periods": periods, "throttled_ratio": stopped / periods},
        unit="1",
        baseline={"throttled_ratio": 0.0},
        reproduce=command("cat {}", cgroup_file(view, culprit.name, "cpu", "cpu.stat")),
        source="collectors.cgroup",
        series=(f"linux.cgroup.cpu.throttled_periods{{cgroup={culprit.name}}}",),
        onset=series_onset(view.window, view.window.level("linux.cgroup.cpu.throttled_periods", cgroup=culprit.name)),
    )


def _quota_used(view: View, culprit: Culprit) -> Finding | None:
    """CPU use against the quota: a cgroup at its quota wants more, one far below is only bursty."""
    quota = view.window.last("linux.cgroup.cpu.quota", cgroup=culprit.name)
    if np.isnan(quota) or quota <= 0:
        return None
    if view.window.columns("linux.cgroup.cpu.usage", cgroup=culprit.name):
        used = rise(view, "linux.cgroup.cpu.usage", cgroup=culprit.name) / view.seconds
    else:  # cgroup v1 counts use in another hierarchy, where the group may not exist
        used = sum(view.cpu.get(pid, 0.0) for pid in pids_behind(view, culprit))
    return Finding(
        value=used / quota,
        statement=f"{culprit.name} uses {used:.2f} of the {quota:.2f} CPUs its quota grants",
        values={"cpus_used": used, "quota_cpus": quota},
        unit="{cpu}",
        reproduce=command("cat {}", cgroup_file(view, culprit.name, "cpu", "cpu.cfs_quota_us", "cpu.max")),
        source="collectors.cgroup",
        series=(f"linux.cgroup.cpu.usage{{cgroup={culprit.name}}}",),
    )


THROTTLING = FaultModel(
    fault="cpu.throttling",
    culprit="cgroup",
    prior=0.1,
    suspects=_throttling_suspects,
    features=(
        Feature(
            "throttled_ratio",
            "metric.cgroup_cpu",
            _throttled_ratio,
            Curve((0.0, -4.0), (0.05, -1.5), (0.2, 1.0), (0.5, 2.5), (0.8, 3.0)),
            needed=True,
            ask="periods in which the quota stopped it: cpu.stat, nr_throttled",
        ),
        Feature("quota_used", "metric.cgroup_cpu", _quota_used, Curve((0.1, -1.5), (0.4, 0.0), (0.8, 1.5))),
        Feature("cpu_idle", "metric.cpu", _no_idle, Curve((0.02, -2.0), (0.06, -0.3), (0.15, 1.0), (0.4, 1.5))),
    ),
    headline=lambda c, f: (
        f"the CPU quota of {c.name} stops it in {f['throttled_ratio'].value:.0%} of its periods "
        f"while the host's CPUs idle {f['cpu_idle'].value:.0%} of the time."
    ),
    symptoms=("lock.contention", "net.backlog", "engine.oversubscribed", "engine.down", "cpu.affinity", "proc.hung"),
    effects=("linux.psi.cpu.some", "linux.process.run_delay", "linux.cgroup.cpu.throttled_time"),
    chain=("the cgroup spends its quota early in each period", "its threads are stopped until the next", "work queues"),
    severity="warning",
    actions=("cgroup.set_cpu_quota",),
)


# --- affinity ---


def _confined(view: View, pid: int) -> int:
    """How many of the host's CPUs a process may use."""
    process = view.processes.get(pid)
    allowed = len(set(process.affinity)) if process and process.affinity else view.cpus
    return min(allowed, view.cpus)


def _affinity_suspects(view: View) -> list[Culprit]:
    def hunger(group_pids: frozenset[int]) -> float:
        confined = [pid for pid in group_pids if _confined(view, pid) < view.cpus]
        return sum(view.run_delay.get(pid, 0.0) for pid in confined)

    return group_culprits(view, lambda g: hunger(g.pids), 0.15)


def _confinement(view: View, culprit: Culprit) -> Finding | None:
    """CPU it gets and waits for, against the CPUs it is confined to."""
    if culprit.pid is None:
        return None
    allowed = _confined(view, culprit.pid)
    members = view.group_of(culprit.pid).members
    allowed = max((_confined(view, p.pid) for p in members), default=allowed)
    used, waited = over_group(view, culprit, view.cpu), over_group(view, culprit, view.run_delay)
    return Finding(
        value=0.0 if allowed >= view.cpus else (used + waited) / allowed,
        statement=(
            f"{who(culprit)} may run on {allowed} of {view.cpus} CPUs, "
            f"keeps {used:.2f} busy and waits for {waited:.2f} more"
        ),
        values={"allowed_cpus": allowed, "cpus": view.cpus, "cpus_used": used, "cpus_waited_for": waited},
        unit="{cpu}",
        reproduce=f"taskset -pc {culprit.pid}; cat /proc/{culprit.pid}/schedstat",
        source="collectors.process",
        series=(f"linux.process.run_delay{{pid={culprit.pid}}}",),
        onset=_cpu_onset(view, culprit),
    )


def _others_idle(view: View, culprit: Culprit) -> Finding | None:
    """How idle the CPUs are that the culprit may not use."""
    process = view.processes.get(culprit.pid or 0)
    if process is None or not process.affinity or not view.idle_by_cpu:
        return None
    members = view.group_of(process.pid).members
    allowed = {cpu for p in members for cpu in p.affinity}
    outside = {cpu: idle for cpu, idle in view.idle_by_cpu.items() if cpu not in allowed}
    if not outside:
        return None
    idle = sum(outside.values()) / len(outside)
    cpus = ",".join(map(str, sorted(outside)[:8]))
    return Finding(
        value=idle,
        statement=f"CPUs outside its mask ({cpus}) idle {idle:.0%} of the time",
        values={"idle_share": idle} | {f"cpu{c}": c for c in sorted(outside)[:8]},
        unit="1",
        reproduce="mpstat -P ALL 1 5 || grep '^cpu' /proc/stat",
        source=_HOST_CPU,
        series=tuple(f"system.cpu.time{{cpu={c}, state=idle}}" for c in sorted(outside)[:2]),
    )


AFFINITY = FaultModel(
    fault="cpu.affinity",
    culprit="process",
    prior=0.08,
    suspects=_affinity_suspects,
    features=(
        Feature(
            "confinement",
            "metric.process_cpu",
            _confinement,
            Curve((0.8, -3.0), (1.1, -0.5), (1.5, 1.5), (2.5, 2.5)),
            needed=True,
            ask="its threads wait for CPU inside a narrow mask: `taskset -pc PID`",
        ),
        Feature(
            "others_idle",
            "metric.cpu",
            _others_idle,
            Curve((0.1, -3.0), (0.3, -0.5), (0.6, 1.5), (0.9, 2.5)),
            needed=True,
            ask="other CPUs idle meanwhile: `mpstat -P ALL 1`",
        ),
    ),
    headline=lambda c, f: (
        f"{who(c)} is confined to {f['confinement'].values['allowed_cpus']} of {f['confinement'].values['cpus']} CPUs "
        f"and waits for {f['confinement'].values['cpus_waited_for']:.1f} more while the others idle "
        f"{f['others_idle'].value:.0%} of the time."
    ),
    symptoms=("lock.contention", "net.backlog", "engine.down", "cpu.saturation"),
    effects=("linux.process.run_delay", "linux.psi.cpu.some"),
    chain=("the affinity mask allows few CPUs", "its threads queue for them", "the other CPUs stay idle"),
    severity="warning",
    actions=("process.set_affinity",),
)


# --- the host itself: steal, frequency, interrupts ---


def _host(view: View) -> Culprit:
    return Culprit("host", view.host.name)


def _steal_suspects(view: View) -> list[Culprit]:
    return [_host(view)] if view.cpu_shares.get("steal", 0.0) > 0.02 else []


def _stolen(view: View, _: Culprit) -> Finding | None:
    if not view.cpu_shares:
        return None
    share = view.cpu_shares["steal"]
    wanted = 1.0 - view.idle
    return Finding(
        value=share / max(wanted, 0.05),
        statement=f"the hypervisor withheld {share:.0%} of CPU time; the guest wanted {wanted:.0%}",
        values={"steal_share": share, "wanted_share": wanted},
        unit="1",
        baseline={"steal_share": float(np.nan_to_num(_steal_since_boot(view)))},
        reproduce="vmstat 1 5   # column st",
        source=_HOST_CPU,
        series=("system.cpu.time{cpu=0, state=steal}",),
    )


def _steal_since_boot(view: View) -> float:
    return view.window.since_boot(view.uptime, "system.cpu.time", state="steal") / view.cpus


STEAL = FaultModel(
    fault="cpu.steal",
    culprit="host",
    prior=0.05,
    suspects=_steal_suspects,
    features=(
        Feature(
            "stolen", "metric.cpu", _stolen, Curve((0.05, -3.0), (0.15, -0.8), (0.3, 1.5), (0.5, 4.0)), needed=True
        ),
        Feature("cpu_pressure", "metric.cpu", pressure("cpu"), Curve((0.02, -1.5), (0.2, 0.0), (0.5, 0.6))),
    ),
    headline=lambda c, f: f"the hypervisor withholds {f['stolen'].values['steal_share']:.0%} of {c.name}'s CPU time.",
    symptoms=("cpu.saturation", "engine.oversubscribed"),
    effects=("system.cpu.time", "linux.psi.cpu.some"),
    chain=("the hypervisor runs other guests", "this guest's CPUs stand still", "everything on it slows"),
    severity="warning",
    actions=("host.inspect_hypervisor",),
)


def _frequency_suspects(view: View) -> list[Culprit]:
    nominal = view.window.mean("linux.cpu.frequency.nominal")
    return [_host(view)] if not np.isnan(nominal) and not np.isnan(_clock_ratio(view)) else []


def _clock_ratio(view: View) -> float:
    """Mean clock of the busy CPUs over their nominal clock."""
    ratios = []
    for cpu, idle in view.idle_by_cpu.items():
        now = view.window.mean("system.cpu.frequency", cpu=cpu)
        nominal = view.window.last("linux.cpu.frequency.nominal", cpu=cpu)
        if idle < 0.5 and not np.isnan(now) and nominal > 0:
            ratios.append(now / nominal)
    return float(np.mean(ratios)) if ratios else float("nan")


def _held_down(view: View, _: Culprit) -> Finding | None:
    ratio = _clock_ratio(view)
    if np.isnan(ratio):
        return None
    return Finding(
        value=ratio,
        statement=f"busy CPUs run at {ratio:.0%} of their nominal clock",
        values={"clock_ratio": ratio},
        unit="1",
        reproduce="grep MHz /proc/cpuinfo; cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
        source="collectors.thermal",
        series=("system.cpu.frequency{cpu=0}",),
    )


def _throttle_events(view: View, _: Culprit) -> Finding | None:
    if not view.window.columns("linux.cpu.throttle"):
        return None
    events = rise(view, "linux.cpu.throttle")
    return Finding(
        value=events,
        statement=f"{events:.0f} thermal throttle events in the window",
        values={"events": events},
        unit="{event}",
        reproduce="grep . /sys/devices/system/cpu/cpu*/thermal_throttle/*_count",
        source="collectors.thermal",
        series=("linux.cpu.throttle",),
    )


FREQUENCY = FaultModel(
    fault="cpu.frequency",
    culprit="host",
    prior=0.03,
    suspects=_frequency_suspects,
    features=(
        Feature(
            "clock", "metric.cpu", _held_down, Curve((0.5, 3.0), (0.7, 1.5), (0.85, -1.0), (1.0, -4.0)), needed=True
        ),
        Feature("throttle_events", "metric.cpu", _throttle_events, Curve((0.0, -1.5), (1.0, 2.0), (10.0, 3.0))),
    ),
    headline=lambda c, f: (
        f"heat or power capping holds the busy CPUs of {c.name} at {f['clock'].value:.0%} of their nominal clock."
    ),
    symptoms=("cpu.saturation", "engine.oversubscribed"),
    effects=("system.cpu.frequency", "linux.thermal.temperature"),
    chain=("the package is too hot or capped", "the clock is held down", "the same work takes longer"),
    severity="warning",
    actions=("host.inspect_cooling",),
)


@per_view
def _interrupt_share(view: View) -> dict[int, float]:
    """Share of each CPU's time spent in hard and soft interrupts."""
    out: dict[int, float] = {}
    for cpu, columns in view.window.entities("system.cpu.time", "cpu").items():
        steps = np.nansum(np.diff(view.window.values[:, columns], axis=0), axis=0)
        total = float(steps.sum())
        part = sum(
            float(step)
            for column, step in zip(columns, steps, strict=True)
            if view.window.series[column].label("state") in ("irq", "softirq")
        )
        if total > 0 and cpu.isdigit():
            out[int(cpu)] = part / total
    return out


def _interrupt_suspects(view: View) -> list[Culprit]:
    shares = _interrupt_share(view)
    if not shares or max(shares.values()) < 0.15:
        return []
    cpu = max(shares, key=lambda c: shares[c])
    return [Culprit("device", _loudest_vector(view, cpu), None, (("cpu", str(cpu)),))]


def _loudest_vector(view: View, cpu: int) -> str:
    """The interrupt source that rose most on a CPU, by time where traced, else by count."""
    timed: list[tuple[float, str]] = []
    for vector, columns in view.window.entities("linux.interrupt.time", "vector").items():
        amount = float(np.nansum(np.diff(view.window.values[:, columns], axis=0)))
        timed.append((amount, vector))
    if timed and max(timed)[0] > 0:
        return max(timed)[1]
    counted = [
        (rise(view, "linux.softirqs", vector=vector, cpu=cpu), vector)
        for vector in view.window.entities("linux.softirqs", "vector", cpu=cpu)
    ]
    counted += [
        (rise(view, "linux.interrupts", irq=irq, cpu=cpu), irq)
        for irq in view.window.entities("linux.interrupts", "irq", cpu=cpu)
    ]
    return max(counted)[1] if counted else f"cpu{cpu}"


def _interrupt_load(view: View, culprit: Culprit) -> Finding | None:
    shares = _interrupt_share(view)
    cpu = int(culprit.label("cpu") or 0)
    if cpu not in shares:
        return None
    return Finding(
        value=shares[cpu],
        statement=f"CPU {cpu} spends {shares[cpu]:.0%} of its time in interrupts, {culprit.name} foremost",
        values={"interrupt_share": shares[cpu], "cpu": cpu},
        unit="1",
        reproduce="mpstat -I SCPU 1 5; cat /proc/interrupts /proc/softirqs",
        source="collectors.interrupts",
        series=(f"system.cpu.time{{cpu={cpu}, state=softirq}}",),
    )


INTERRUPTS = FaultModel(
    fault="cpu.interrupt_load",
    culprit="device",
    prior=0.04,
    suspects=_interrupt_suspects,
    features=(
        Feature(
            "interrupt_share",
            "metric.interrupts",
            _interrupt_load,
            Curve((0.1, -3.0), (0.25, -0.5), (0.45, 1.8), (0.7, 3.5)),
            needed=True,
        ),
        Feature("cpu_pressure", "metric.cpu", pressure("cpu"), Curve((0.02, -1.5), (0.2, 0.0), (0.5, 0.8))),
    ),
    headline=lambda c, f: (
        f"interrupts of {c.name} take {f['interrupt_share'].value:.0%} of CPU {f['interrupt_share'].values['cpu']}."
    ),
    effects=("linux.softirqs", "linux.interrupts", "linux.interrupt.time"),
    chain=("one CPU serves the interrupts", "tasks on it wait", "latency grows"),
    severity="warning",
    actions=("host.spread_interrupts",),
)


MODELS = (SATURATION, THROTTLING, AFFINITY, STEAL, FREQUENCY, INTERRUPTS)
