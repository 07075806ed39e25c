"""Actions on one process: priority, placement, limits, signals, and looking into it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from remediation.action import INTERRUPTS, LOCAL, READS, Draft, Drafter, Params, Spec, Target
from wardround.models.topology import Process

Pid = Annotated[int, Field(ge=2, le=2**22)]


class Renice(Params):
    """A new nice value."""

    pid: Pid
    nice: int = Field(ge=0, le=19)


class Affinity(Params):
    """The CPUs a process may use, as a kernel list such as ``0-3``; `threads` includes all its threads."""

    pid: Pid
    cpus: str = Field(pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$", max_length=500)
    threads: bool = True


class FdLimit(Params):
    """A new soft limit of open files."""

    pid: Pid
    soft: int = Field(ge=64, le=2**20)


class Signal(Params):
    """A signal to one process; `start` is its start time, so that a reused pid is not hit."""

    pid: Pid
    signal: Literal["SIGCONT", "SIGTERM", "SIGCHLD"]
    start: float


class Inspect(Params):
    """A process to look into."""

    pid: Pid


class MoveMemory(Params):
    """Move a process's memory between NUMA nodes."""

    pid: Pid
    source: int = Field(ge=0, le=1023)
    destination: int = Field(ge=0, le=1023)


def _who(process: Process) -> str:
    return f"{process.name} (pid {process.pid})"


def _radius(target: Target, process: Process) -> str:
    """Say who feels an end of the process."""
    children = len(target.observation.after.children(process.pid))
    parts = ["1 process"]
    if children:
        parts.append(f"{children} children")
    if process.unit:
        parts.append(f"service {process.unit}")
    listening = sum(s.pid == process.pid and s.state == "listen" for s in target.observation.after.sockets)
    if listening:
        parts.append(f"{listening} listening sockets")
    return ", ".join(parts)


def _same(process: Process) -> str:
    return f"pid {process.pid} is still {process.name} with the same start time"


def renice(target: Target) -> Iterator[Draft]:
    process = target.process
    if process is None or process.nice >= 10 or process.policy in ("idle", "fifo", "rr", "deadline"):
        return
    yield Draft(
        params=Renice(pid=process.pid, nice=10),
        preview=f"nice of {_who(process)}: {process.nice} -> 10",
        blast_radius="1 process; it yields to everything of normal priority",
        rollback=f"nice of {_who(process)}: 10 -> {process.nice}",
        precheck=_same(process),
        verify=target.metrics,
    )


def set_affinity(target: Target) -> Iterator[Draft]:
    """Give back all CPUs of the host to a confined process."""
    process = target.process
    count = target.observation.host.cpus
    if process is None or not process.affinity or len(process.affinity) >= count:
        return
    now = cpu_list(process.affinity)
    wanted = cpu_list(range(count))
    yield Draft(
        params=Affinity(pid=process.pid, cpus=wanted),
        preview=f"CPUs of {_who(process)} and its threads: {now} -> {wanted}",
        blast_radius="1 process; its load spreads over the other CPUs",
        rollback=f"CPUs of {_who(process)} and its threads: {wanted} -> {now}",
        precheck=_same(process) + "; its cgroup's cpuset allows these CPUs",
        verify=target.metrics,
    )


def raise_fd_limit(target: Target) -> Iterator[Draft]:
    process = target.process
    if process is None or process.fd_limit is None:
        return
    wanted = min(max(process.fd_limit * 4, 4096), 2**20)
    if wanted <= process.fd_limit:
        return
    used = f", {process.fds} in use" if process.fds is not None else ""
    yield Draft(
        params=FdLimit(pid=process.pid, soft=wanted),
        preview=f"open files limit (prlimit) of {_who(process)}: {process.fd_limit}{used} -> {wanted}",
        blast_radius="1 process; a leak of files goes on, only later",
        rollback=f"open files limit of {_who(process)}: {wanted} -> {process.fd_limit}",
        precheck=_same(process) + "; the hard limit allows it",
        verify=target.metrics,
    )


def resume(target: Target) -> Iterator[Draft]:
    process = target.process
    if process is None or process.state not in ("T", "t") or process.traced:
        return
    yield Draft(
        params=Signal(pid=process.pid, signal="SIGCONT", start=process.start),
        preview=f"{_who(process)}: stopped (state {process.state}) -> running, by SIGCONT",
        blast_radius=_radius(target, process),
        rollback=f"SIGSTOP to {_who(process)}: running -> stopped",
        precheck=_same(process) + " and still stopped, and nobody debugs it",
        verify=target.metrics,
    )


def terminate(target: Target) -> Iterator[Draft]:
    process = target.process
    if process is None:
        return
    unit = f" (systemd may start {process.unit} again)" if process.unit.endswith(".service") else ""
    yield Draft(
        params=Signal(pid=process.pid, signal="SIGTERM", start=process.start),
        preview=f"{_who(process)}: running -> ended by SIGTERM, which it may handle{unit}",
        blast_radius=_radius(target, process),
        rollback="start it again the way it was started; work it had not saved is lost: " + _command(process),
        precheck=_same(process) + "; it is not a login session or a database in recovery",
        verify=target.metrics,
    )


def signal_parent_reap(target: Target) -> Iterator[Draft]:
    process = target.process
    if process is None:
        return
    zombies = sum(child.state == "Z" for child in target.observation.after.children(process.pid))
    if not zombies:
        return
    yield Draft(
        params=Signal(pid=process.pid, signal="SIGCHLD", start=process.start),
        preview=f"zombie children of {_who(process)}: {zombies} -> 0, if SIGCHLD makes it wait for them",
        blast_radius="1 process; one that ignores SIGCHLD stays as it is",
        rollback="none needed: the signal only reminds it",
        precheck=_same(process) + " and still has zombies",
        verify="linux.processes.zombie falls",
    )


def rebind_numa(target: Target) -> Iterator[Draft]:
    """Move a process's memory to the other of two nodes, where its CPUs are."""
    process = target.process
    nodes = target.observation.host.numa_nodes
    if process is None or len(nodes) != 2:
        return  # with more nodes the snapshot does not tell which one its CPUs are on
    window = target.observation.window
    held = {node: window.last("linux.process.numa", pid=process.pid, node=node) for node in nodes}
    if any(amount != amount for amount in held.values()):
        return
    source, destination = sorted(nodes, key=lambda node: -held[node])
    yield Draft(
        params=MoveMemory(pid=process.pid, source=source, destination=destination),
        preview=f"memory of {_who(process)}: {held[source]:.0f} bytes on node {source} -> node {destination}",
        blast_radius="1 process; it stalls while its pages move",
        rollback=f"memory of {_who(process)}: node {destination} -> node {source}",
        precheck=_same(process) + f"; node {destination} has room for it",
        verify=target.metrics,
    )


def _looking(what: str, command: str, of: str) -> Drafter:
    def draft(target: Target) -> Iterator[Draft]:
        process = target.process
        if process is None:
            return
        yield Draft(
            params=Inspect(pid=process.pid),
            preview=f"read {what} of {_who(process)}: {command.format(pid=process.pid)}",
            blast_radius=of,
            rollback="none needed: it only reads",
            precheck=_same(process),
            verify=f"the {what} name where it comes from",
        )

    return draft


def cpu_list(cpus: Iterable[int]) -> str:
    """Return CPUs as the kernel writes them: ``0-3,6``."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(str(end) for end in part) for part in parts)


def _command(process: Process) -> str:
    return (process.cmdline or process.exe or process.name)[:200]


ACTIONS = (
    Spec("process.renice", "lower the priority of a process", Renice, LOCAL, renice),
    Spec("process.set_affinity", "let a confined process use all CPUs", Affinity, LOCAL, set_affinity),
    Spec("process.raise_fd_limit", "raise a process's limit of open files", FdLimit, LOCAL, raise_fd_limit),
    Spec("process.continue", "let a stopped process run on", Signal, LOCAL, resume),
    Spec("process.signal_parent_reap", "remind a parent to reap its zombies", Signal, LOCAL, signal_parent_reap),
    Spec("process.rebind_numa", "move a process's memory to the node it runs on", MoveMemory, LOCAL, rebind_numa),
    Spec("process.terminate", "end a process by SIGTERM", Signal, INTERRUPTS, terminate),
    Spec(
        "process.capture_stacks",
        "read where the threads of a process wait",
        Inspect,
        READS,
        _looking("stacks", "cat /proc/{pid}/task/*/stack /proc/{pid}/task/*/wchan", "1 process, not stopped"),
    ),
    Spec(
        "process.capture_memory_profile",
        "read what holds a process's memory",
        Inspect,
        READS,
        _looking("memory map", "cat /proc/{pid}/smaps_rollup /proc/{pid}/smaps", "1 process, not stopped"),
    ),
    Spec(
        "process.list_files",
        "list the files a process has open",
        Inspect,
        READS,
        _looking("open files", "ls -l /proc/{pid}/fd", "1 process, not stopped"),
    ),
)
