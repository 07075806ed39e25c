"""Follow-up tools of the topology specialist: one process in full, and what is next to an entity.

They answer from the snapshots of the round; what changed since is not seen.
"""

from __future__ import annotations

from pydantic import Field

from agents.tools.base import Arguments, Tool
from rca.case import Case
from wardround.models.diagnosis import Evidence, Number
from wardround.models.topology import BlockDevice, Process, TopologySnapshot

MOST = 12


class ProcessArguments(Arguments):
    """One process id."""

    pid: int = Field(ge=1, le=2**22)


class EntityArguments(Arguments):
    """One entity: a pid, a cgroup path, a mount point, a device or an interface."""

    entity: str = Field(min_length=1, max_length=200)


def process(case: Case, arguments: ProcessArguments) -> list[Evidence]:
    """Tell state, priority, memory, files, threads and placement of a process."""
    found = case.view.processes.get(arguments.pid)
    if found is None:
        return []
    values: dict[str, Number] = {
        "pid": found.pid,
        "parent": found.ppid,
        "nice": found.nice,
        "threads": found.thread_count,
        "resident_bytes": found.rss,
        "cpus_allowed": len(found.affinity),
        "cpus_used": round(case.view.cpu.get(found.pid, 0.0), 3),
    }
    statement = (
        f"{found.name} (pid {found.pid}, parent {found.ppid}) is in state {found.state}, nice {found.nice}, "
        f"{found.thread_count} threads, {found.rss} bytes resident, may use {len(found.affinity)} CPUs, "
        f"uses {values['cpus_used']}"
    )
    if found.fds is not None and found.fd_limit is not None:
        values |= {"files": found.fds, "file_limit": found.fd_limit}
        statement += f", {found.fds} of {found.fd_limit} files open"
    return [_evidence(case, f"process|{found.pid}", statement, values, f"cat /proc/{found.pid}/status")]


def neighbours(case: Case, arguments: EntityArguments) -> list[Evidence]:
    """Tell what an entity is directly linked to."""
    snapshot = case.view.observation.after
    links = sorted(set(_links(snapshot, arguments.entity)))
    if not links:
        return []
    shown = ", ".join(links[:MOST]) + (f" and {len(links) - MOST} more" if len(links) > MOST else "")
    found = case.view.processes.get(int(arguments.entity)) if arguments.entity.isdigit() else None
    name = f"{found.name} (pid {found.pid})" if found is not None else arguments.entity
    statement = f"{name} is linked to {len(links)} things: {shown}"
    values: dict[str, Number] = {"links": len(links), "not_shown": max(len(links) - MOST, 0)}
    return [_evidence(case, f"neighbours|{arguments.entity}", statement, values, "systemd-cgls; lsblk; ss -tnp")]


def _links(snapshot: TopologySnapshot, entity: str) -> list[str]:
    if entity.isdigit() and (found := snapshot.processes.get(int(entity))) is not None:
        return _links_of_process(snapshot, found)
    links = [
        f"process {p.name} (pid {p.pid})"
        for p in snapshot.processes.values()
        if entity == p.unit or entity in dict(p.cgroups).values()
    ]
    for mount in snapshot.mounts:
        if mount.mountpoint == entity:
            links.append(f"device {mount.device}")
        elif mount.device in (entity, f"/dev/{entity}"):
            links.append(f"mount {mount.mountpoint}")
    links += [f"backing {d.backing}" for d in snapshot.devices.values() if d.backing and entity in _names(d)]
    links += [f"address {a}" for i in snapshot.interfaces if i.name == entity for a in i.addresses]
    return links


def _names(device: BlockDevice) -> tuple[str, str]:
    return device.name, f"/dev/{device.name}"


def _links_of_process(snapshot: TopologySnapshot, found: Process) -> list[str]:
    links = [f"child {p.name} (pid {p.pid})" for p in snapshot.children(found.pid)]
    if (parent := snapshot.processes.get(found.ppid)) is not None:
        links.append(f"parent {parent.name} (pid {parent.pid})")
    links += [f"cgroup {path}" for _, path in found.cgroups if path != "/"]
    links += [f"unit {found.unit}"] if found.unit else []
    links += [f"listens on {s.local}" for s in snapshot.sockets if s.pid == found.pid and s.state == "listen"]
    return links


def _evidence(case: Case, name: str, statement: str, values: dict[str, Number], reproduce: str) -> Evidence:
    observation = case.view.observation
    return Evidence(
        id=case.identify("ev", f"topology.{name}"),
        kind="topology",
        source="agents.tools.topology",
        statement=statement,
        values=values,
        unit="1",
        reproduce=reproduce,
        trust="host",
        start=observation.start,
        end=observation.end,
        feature=name.partition("|")[0],
    )


TOOLS = (
    Tool("topology.show_process", "one process in full", ProcessArguments, process),
    Tool("topology.neighbours", "what an entity is directly linked to", EntityArguments, neighbours),
)
