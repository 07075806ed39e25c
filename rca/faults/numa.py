"""Where memory lies: on another NUMA node than the threads that use it, or free but in pieces."""

from __future__ import annotations

import numpy as np

from rca.faults.shared import MIB, group_culprits, pressure, rise, size, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Process


def _placement(view: View, pid: int) -> tuple[float, float, int] | None:
    """(bytes on the nodes it runs on, bytes elsewhere, node with most) of a process on a host with several nodes."""
    process = view.users.get(pid)
    columns = view.window.columns("linux.process.numa", pid=pid)
    if process is None or not columns or len(view.host.numa_nodes) < 2:
        return None
    held = {
        int(view.window.series[c].label("node") or 0): float(filled(view.window.values[:, [c]])[-1, 0]) for c in columns
    }
    runs_on = _nodes_of_cpus(view, process)
    near = sum(b for node, b in held.items() if node in runs_on)
    return near, sum(held.values()) - near, max(held, key=lambda n: held[n])


def _nodes_of_cpus(view: View, process: Process) -> set[int]:
    """The nodes whose CPUs a process may use (CPUs are taken as split evenly in order where topology is not read)."""
    per_node = max(view.cpus // len(view.host.numa_nodes), 1)
    allowed = process.affinity or tuple(range(view.cpus))
    return {view.host.numa_nodes[min(cpu // per_node, len(view.host.numa_nodes) - 1)] for cpu in allowed}


def _numa_suspects(view: View) -> list[Culprit]:
    if len(view.host.numa_nodes) < 2:
        return []

    def remote(pid: int) -> float:
        placed = _placement(view, pid)
        return placed[1] if placed and placed[1] > placed[0] else 0.0

    return group_culprits(view, lambda g: max((remote(p.pid) for p in g.members), default=0.0), 256 * MIB)


def _remote_share(view: View, culprit: Culprit) -> Finding | None:
    placed = _placement(view, culprit.pid or 0)
    if placed is None:
        return None
    near, far, node = placed
    share = far / max(near + far, 1.0)
    return Finding(
        value=share,
        statement=f"{share:.0%} of its memory ({size(far)}) lies on nodes it does not run on, most on node {node}",
        values={"remote_share": share, "remote_bytes": far, "node": node},
        unit="1",
        reproduce=f"numastat -p {culprit.pid}",
        source="collectors.numa",
        series=(f"linux.process.numa{{node={node}, pid={culprit.pid}}}",),
    )


def _remote_access(view: View, _: Culprit) -> Finding | None:
    other, local = rise(view, "linux.numa", key="other_node"), rise(view, "linux.numa", key="local_node")
    if other + local <= 0:
        return None
    share = other / (other + local)
    return Finding(
        value=share,
        statement=f"{share:.0%} of page allocations came from another node than the one asked from",
        values={"other_node_share": share},
        unit="1",
        reproduce="numastat",
        source="collectors.numa",
        series=("linux.numa",),
    )


NUMA = FaultModel(
    fault="mem.numa_remote",
    culprit="process",
    prior=0.05,
    suspects=_numa_suspects,
    features=(
        Feature(
            "remote_share",
            "topology.numa",
            _remote_share,
            Curve((0.3, -3.0), (0.5, 0.5), (0.7, 2.5), (0.9, 3.5)),
            needed=True,
        ),
        Feature("other_node", "metric.numa", _remote_access, Curve((0.0, -0.3), (0.2, 0.5), (0.6, 1.0))),
    ),
    headline=lambda c, f: (
        f"{who(c)} runs on one NUMA node while {f['remote_share'].value:.0%} of its memory is on another."
    ),
    effects=("linux.numa", "linux.process.numa"),
    chain=(
        "threads and memory sit on different nodes",
        "every access crosses the interconnect",
        "memory bandwidth and latency suffer",
    ),
    severity="warning",
    actions=("process.rebind_numa",),
)


def _fragmentation_suspects(view: View) -> list[Culprit]:
    stalls = np.nan_to_num(view.vmstat("compact_stall"))
    return [Culprit("host", view.host.name)] if stalls > 1.0 else []


def _compaction(view: View, _: Culprit) -> Finding | None:
    stalls, fails = (float(np.nan_to_num(view.vmstat(k))) for k in ("compact_stall", "compact_fail"))
    return Finding(
        value=stalls,
        statement=f"{stalls:.1f} allocations a second stall in compaction, {fails:.1f} of them in vain",
        values={"compact_stalls": stalls, "compact_fails": fails},
        unit="{event}/s",
        reproduce="grep -E 'compact_(stall|fail)' /proc/vmstat; cat /proc/buddyinfo",
        source="collectors.memory",
        series=("linux.vmstat{key=compact_stall}",),
    )


def _free_but_scattered(view: View, _: Culprit) -> Finding | None:
    total = view.window.last("system.memory.limit")
    free = view.window.last("system.memory.usage", state="free")
    if np.isnan(free) or total <= 0:
        return None
    return Finding(
        value=free / total,
        statement=f"{size(free)} are free ({free / total:.0%}), in small pieces",
        values={"free_bytes": free, "free_share": free / total},
        unit="By",
        reproduce="cat /proc/buddyinfo",
        source="collectors.memory",
    )


FRAGMENTATION = FaultModel(
    fault="mem.fragmentation",
    culprit="host",
    prior=0.03,
    suspects=_fragmentation_suspects,
    features=(
        Feature(
            "compaction",
            "metric.memory",
            _compaction,
            Curve((0.5, -3.0), (5.0, 0.5), (50.0, 3.0), (200.0, 4.0)),
            needed=True,
        ),
        Feature("free_memory", "metric.memory", _free_but_scattered, Curve((0.01, -2.5), (0.05, -0.5), (0.15, 1.0))),
        Feature("memory_pressure", "metric.memory", pressure("memory"), Curve((0.0, -1.0), (0.02, 0.2), (0.2, 1.0))),
    ),
    headline=lambda c, f: (
        f"allocations on {c.name} stall in compaction ({f['compaction'].value:.0f} a second) though memory is free."
    ),
    effects=("linux.vmstat", "linux.psi.memory.some", "linux.buddy.free"),
    chain=("free memory is scattered", "large allocations wait for compaction", "tasks stall"),
    severity="warning",
    actions=("host.compact_memory",),
)


MODELS = (NUMA, FRAGMENTATION)
