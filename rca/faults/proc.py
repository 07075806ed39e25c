"""Open-file exhaustion and zombies: what a process holds and never gives back."""

from __future__ import annotations

from collections import Counter

from rca.faults.shared import process_culprit, syscall_errors, who
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, per_view
from wardround.models.diagnosis import Culprit


@per_view
def _fd_use(view: View) -> dict[int, tuple[float, float]]:
    """(open, limit) by process, from the series where seen, else from the snapshot."""
    opened, limits = view.per_pid("process.open_file_descriptor.count"), view.per_pid("linux.process.fd.limit")
    out = {}
    for pid, process in view.users.items():
        count, limit = opened.get(pid, process.fds), limits.get(pid, process.fd_limit)
        if count is not None and limit:
            out[pid] = (float(count), float(limit))
    return out


def _fd_suspects(view: View) -> list[Culprit]:
    use, refused = _fd_use(view), syscall_errors(view, "EMFILE", "ENFILE")
    share = {pid: count / limit for pid, (count, limit) in use.items()}
    found = [
        (refused.get(pid, 0.0) + share.get(pid, 0.0), view.users[pid])
        for pid in {*share, *refused}
        if pid in view.users and (share.get(pid, 0.0) > 0.9 or refused.get(pid, 0.0) > 0)
    ]
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _fds_used(view: View, culprit: Culprit) -> Finding | None:
    known = _fd_use(view).get(culprit.pid or 0)
    if known is None:
        return None
    count, limit = known
    return Finding(
        value=count / limit,
        statement=f"{who(culprit)} has {count:.0f} of {limit:.0f} allowed files open",
        values={"open": count, "limit": limit},
        unit="{fd}",
        reproduce=f"ls /proc/{culprit.pid}/fd | wc -l; grep 'open files' /proc/{culprit.pid}/limits",
        source="collectors.process",
        series=(f"process.open_file_descriptor.count{{pid={culprit.pid}}}",),
    )


def _fds_refused(view: View, culprit: Culprit) -> Finding | None:
    if not view.window.columns("linux.process.syscall.errors"):
        return None
    rate = syscall_errors(view, "EMFILE", "ENFILE").get(culprit.pid or 0, 0.0)
    return Finding(
        value=rate,
        statement=f"{rate:.1f} of its calls a second fail for want of a file descriptor (EMFILE or ENFILE)",
        values={"refused": rate},
        unit="{error}/s",
        reproduce=f"strace -f -p {culprit.pid} -e trace=desc,network 2>&1 | grep -E 'EMFILE|ENFILE'",
        source="collectors.ebpf",
        kind="event",
        series=(f"linux.process.syscall.errors{{errno=EMFILE, pid={culprit.pid}}}",),
    )


FD_EXHAUSTION = FaultModel(
    fault="proc.fd_exhaustion",
    culprit="process",
    prior=0.12,
    suspects=_fd_suspects,
    features=(
        Feature(
            "fds_used",
            "metric.process_fd",
            _fds_used,
            Curve((0.5, -3.5), (0.85, -1.0), (0.95, 1.8), (0.99, 3.0)),
            needed=True,
        ),
        Feature(
            "fds_refused",
            "metric.syscalls",
            _fds_refused,
            Curve((0.0, -1.5), (0.1, 1.5), (5.0, 3.0)),
            ask="calls fail with EMFILE: strace or the program's own log",
        ),
    ),
    headline=lambda c, f: (
        f"{who(c)} is out of file descriptors: {f['fds_used'].values['open']:.0f} of "
        f"{f['fds_used'].values['limit']:.0f} are open."
    ),
    symptoms=("net.backlog", "engine.down", "proc.crash_loop", "engine.errors"),
    effects=("process.open_file_descriptor.count", "linux.process.syscall.errors", "linux.tcp.listen.queue"),
    chain=("files or sockets are opened and not closed", "the limit is reached", "open, accept and connect fail"),
    severity="critical",
    actions=("process.list_files", "process.raise_fd_limit", "service.restart"),
)


@per_view
def _dead_children(view: View) -> dict[int, int]:
    """Zombies by parent, counted where they were dead at both ends of the window or the number grew."""
    after = Counter(p.ppid for p in view.observation.after.processes.values() if p.state == "Z")
    lasting = Counter(
        p.ppid
        for pid, p in view.observation.after.processes.items()
        if p.state == "Z" and (old := view.observation.before.processes.get(pid)) and old.state == "Z"
    )
    return {ppid: n for ppid, n in after.items() if lasting[ppid] >= 3 or n >= lasting[ppid] + 20}


def _zombie_suspects(view: View) -> list[Culprit]:
    found = [(n, view.users[ppid]) for ppid, n in _dead_children(view).items() if ppid in view.users and n >= 5]
    return [process_culprit(p) for _, p in sorted(found, key=lambda f: -f[0])[:3]]


def _unreaped(view: View, culprit: Culprit) -> Finding | None:
    count = _dead_children(view).get(culprit.pid or 0, 0)
    before = sum(1 for p in view.observation.before.processes.values() if p.state == "Z" and p.ppid == culprit.pid)
    return Finding(
        value=float(count),
        statement=f"{count} dead children of {who(culprit)} wait to be reaped ({before} when the window began)",
        values={"zombies": count, "zombies_before": before},
        unit="{process}",
        reproduce=f"ps --ppid {culprit.pid} -o pid,stat,etimes,comm | grep ' Z'",
        source="collectors.topology",
        kind="topology",
        series=("linux.processes.zombie",),
    )


ZOMBIES = FaultModel(
    fault="proc.zombies",
    culprit="process",
    prior=0.15,
    suspects=_zombie_suspects,
    features=(
        Feature(
            "unreaped",
            "topology.processes",
            _unreaped,
            Curve((3.0, -2.0), (8.0, 0.5), (20.0, 2.5), (100.0, 4.0)),
            needed=True,
        ),
    ),
    headline=lambda c, f: f"{who(c)} does not reap its children: {f['unreaped'].values['zombies']} are zombies.",
    effects=("linux.processes.zombie", "linux.tasks.count"),
    chain=("children exit", "their parent never waits for them", "each keeps its pid until the table is full"),
    severity="warning",
    actions=("process.signal_parent_reap", "service.restart", "process.terminate"),
)


MODELS = (FD_EXHAUSTION, ZOMBIES)
