"""`--pid` and `--cgroup`: the same diagnosis of the whole host, told from one process's or control group's side.

What can reach the focus over this host's topology comes first, the rest stands behind it as "elsewhere". Nothing is
left out and no probability changes: a cause often lies outside of what suffers from it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rca.topology import in_cgroup, related
from rca.view import View
from wardround.errors import UserError
from wardround.models.diagnosis import Culprit, Diagnosis, Hypothesis
from wardround.models.observation import Observation
from wardround.models.topology import Process

PRESENT = ("confirmed", "likely")


def check_focus(pid: int | None, cgroup: str | None, proc: Path = Path("/proc")) -> None:
    """Refuse what does not exist on this host, before time is spent on observing it.

    :raises UserError: there is no such process or control group
    """
    if pid is not None and not (proc / str(pid)).exists():
        raise UserError(f"there is no process {pid}", "it may have ended", "see `ps -e` for those that run")
    if cgroup is not None and not any(Path(mount + cgroup_path(cgroup)).is_dir() for mount in _mounts(proc)):
        raise UserError(
            f"there is no control group {cgroup}", do="see `systemd-cgls` or /proc/PID/cgroup for their paths"
        )


def cgroup_path(text: str) -> str:
    """Return the path inside its hierarchy, also of what was copied from below the mount point."""
    for mount in sorted(_mounts(Path("/proc")), key=len, reverse=True):
        if text == mount or text.startswith(mount + "/"):
            return text.removeprefix(mount) or "/"
    return "/" + text.strip("/")


def _mounts(proc: Path) -> list[str]:
    try:
        rows = [line.split(" ") for line in (proc / "self/mounts").read_text().splitlines()]
    except OSError:
        return []
    return [row[1] for row in rows if len(row) > 2 and row[2] in ("cgroup", "cgroup2")]


def focused(diagnosis: Diagnosis, observation: Observation, pid: int | None, cgroup: str | None) -> Diagnosis:
    """Return the diagnosis with what concerns the focus first, and a summary that says so.

    :raises UserError: the observation never saw such a process or control group
    """
    view = View(observation)
    seen = {**observation.before.processes, **observation.after.processes}
    for who in _culprits(seen, pid, cgroup):
        # The process ids of a crash are of another boot.
        near = [h for h in diagnosis.hypotheses if h.ended is None and related(view, h.culprit, who)]
        far = [h for h in diagnosis.hypotheses if h not in near]
        summary = _summary(who, near, diagnosis)
        diagnosis = replace(diagnosis, hypotheses=(*near, *far), summary=summary)
    return diagnosis


def _culprits(seen: dict[int, Process], pid: int | None, cgroup: str | None) -> list[Culprit]:
    out = []
    if cgroup is not None:
        path = cgroup_path(cgroup)
        if not any(in_cgroup(process, path) for process in seen.values()):
            raise UserError(f"no process was seen in the control group {path}", do="see /proc/PID/cgroup for its path")
        out.append(Culprit("cgroup", path))
    if pid is not None:
        if pid not in seen:
            raise UserError(f"process {pid} was not seen", "it ended before the window, or the recording is another's")
        out.append(Culprit("process", seen[pid].name, pid))
    return out


def _summary(who: Culprit, near: list[Hypothesis], diagnosis: Diagnosis) -> str:
    name = f"{who.name} (pid {who.pid})" if who.pid is not None else f"control group {who.name}"
    told = [h.headline or h.fault for h in near if h.verdict in PRESENT]
    if told:
        return f"Concerning {name}: {' '.join(told)}"
    if diagnosis.status == "problem":
        return f"Nothing wrong was found with {name}; elsewhere on this host: {diagnosis.summary}"
    return diagnosis.summary
