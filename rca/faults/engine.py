"""The inference engine: down, or running more compute threads than the CPUs it may use.

An engine is known by what it has loaded or how it answers, never by its name alone.
"""

from __future__ import annotations

import numpy as np

from rca.faults.shared import over_group
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, series_onset
from wardround.models.diagnosis import Culprit
from wardround.models.topology import Engine
from wardround.shell import command


def _engines(view: View) -> list[Engine]:
    """Engines of both snapshots, as last seen; one that vanished is no longer healthy."""
    seen = {(e.address, e.pid): e for e in view.observation.before.engines}
    seen.update({(e.address, e.pid): e for e in view.observation.after.engines})
    return list(seen.values())


def _culprit(view: View, engine: Engine) -> Culprit:
    name = view.name(engine.pid) if engine.pid in view.processes else engine.kind
    return Culprit(
        "engine", name, engine.pid, (("address", engine.address), ("kind", engine.kind), ("model", engine.model))
    )


def _of(view: View, culprit: Culprit) -> Engine | None:
    address = culprit.label("address")
    return next((e for e in _engines(view) if e.address == address and e.pid == culprit.pid), None)


def _down_suspects(view: View) -> list[Culprit]:
    return [_culprit(view, e) for e in _engines(view) if e.healthy is False or _gone(view, e)][:3]


def _gone(view: View, engine: Engine) -> bool:
    """Whether the process behind an engine ended within the window."""
    return engine.pid is not None and engine.pid not in view.observation.after.processes


def _answers(view: View, culprit: Culprit) -> Finding | None:
    engine = _of(view, culprit)
    if engine is None:
        return None
    gone = _gone(view, engine)
    healthy = bool(engine.healthy) and not gone
    told = "its process is gone" if gone else (engine.detail or ("it answers" if healthy else "it does not answer"))
    return Finding(
        value=0.0 if healthy else 1.0,
        statement=f"the {engine.kind} engine at {engine.address or 'no port'}: {told}",
        values={},
        unit="1",
        reproduce=command("curl -m 3 {}", f"http://{engine.address}/health"),
        source="collectors.engines",
        kind="test",
        trust="host",
        series=(f"wardround.engine.up{{engine={engine.address}}}",),
        onset=series_onset(view.window, -view.window.level("wardround.engine.up", engine=engine.address)),
    )


def _down_all_along(view: View, culprit: Culprit) -> Finding | None:
    seen = view.window.seen("wardround.engine.up", engine=culprit.label("address"))
    if not len(seen):
        return None
    return Finding(
        value=float(seen.mean()),
        statement=f"it answered {seen.mean():.0%} of {len(seen)} health checks in the window",
        values={"answered_share": float(seen.mean()), "checks": len(seen)},
        unit="1",
        reproduce=command("curl -m 3 {}", f"http://{culprit.label('address')}/health"),
        source="collectors.engines",
        trust="host",
        series=(f"wardround.engine.up{{engine={culprit.label('address')}}}",),
    )


DOWN = FaultModel(
    fault="engine.down",
    culprit="engine",
    prior=0.2,
    suspects=_down_suspects,
    features=(
        Feature("no_answer", "topology.engine", _answers, Curve((0.0, -4.0), (1.0, 3.5)), needed=True),
        Feature("checks", "metric.engine", _down_all_along, Curve((0.0, 1.0), (0.5, 0.0), (0.95, -2.5))),
    ),
    headline=lambda c, f: f"{f['no_answer'].statement} ({c.name}" + (f", pid {c.pid})." if c.pid else ")."),
    effects=("wardround.engine.up", "wardround.engine.health_time"),
    chain=("the engine does not answer", "every request to it fails"),
    severity="critical",
    actions=("engine.inspect", "engine.restart"),
)


def _usable(view: View, pid: int) -> float:
    """CPUs a process may use: its affinity mask and the quota of its cgroup."""
    process = view.users.get(pid)
    if process is None:
        return float(view.cpus)
    allowed = float(len(process.affinity) or view.cpus)
    quotas = [view.window.last("linux.cgroup.cpu.quota", cgroup=path) for _, path in process.cgroups if path != "/"]
    known = [q for q in quotas if not np.isnan(q)]
    return min([allowed, float(view.cpus), *known])


def _oversubscribed_suspects(view: View) -> list[Culprit]:
    return [
        _culprit(view, e)
        for e in _engines(view)
        if e.pid in view.users and (e.threads or 0) > _usable(view, e.pid or 0)
    ][:3]


def _threads(view: View, culprit: Culprit) -> Finding | None:
    engine = _of(view, culprit)
    if engine is None or engine.threads is None or culprit.pid is None:
        return None
    usable = _usable(view, culprit.pid)
    return Finding(
        value=engine.threads / max(usable, 0.1),
        statement=f"the engine computes with {engine.threads} threads and may use {usable:.1f} CPUs",
        values={"threads": engine.threads, "usable_cpus": usable},
        unit="{thread}",
        reproduce=f"tr '\\0' ' ' < /proc/{culprit.pid}/cmdline; taskset -pc {culprit.pid}; nproc",
        source="collectors.engines",
        kind="topology",
    )


def _contended(view: View, culprit: Culprit) -> Finding | None:
    """Whether its threads queue for CPU now: an idle engine's thread count harms nobody."""
    used, waited = over_group(view, culprit, view.cpu), over_group(view, culprit, view.run_delay)
    return Finding(
        value=waited / max(used + waited, 0.2),
        statement=f"its threads use {used:.2f} CPUs and wait for {waited:.2f} more",
        values={"cpus_used": used, "cpus_waited_for": waited},
        unit="{cpu}",
        reproduce=f"cat /proc/{culprit.pid}/task/*/schedstat",
        source="collectors.process",
        series=(f"linux.process.run_delay{{pid={culprit.pid}}}",),
    )


OVERSUBSCRIBED = FaultModel(
    fault="engine.oversubscribed",
    culprit="engine",
    prior=0.2,
    suspects=_oversubscribed_suspects,
    features=(
        Feature(
            "threads", "topology.engine", _threads, Curve((1.0, -3.0), (1.4, 0.5), (2.0, 1.5), (4.0, 2.5)), needed=True
        ),
        Feature(
            "contended",
            "metric.process_cpu",
            _contended,
            Curve((0.05, -2.5), (0.2, 0.0), (0.4, 1.5), (0.7, 2.0)),
            needed=True,
            ask="its threads wait for CPU while it works: /proc/PID/task/*/schedstat",
        ),
    ),
    headline=lambda c, f: (
        f"the {c.label('kind')} engine {c.name} (pid {c.pid}) runs {f['threads'].values['threads']} compute threads "
        f"on {f['threads'].values['usable_cpus']:.1f} CPUs: they wait for each other."
    ),
    symptoms=("cpu.saturation", "lock.contention", "cpu.affinity", "cpu.throttling", "engine.down", "net.backlog"),
    effects=("linux.process.run_delay", "linux.psi.cpu.some", "wardround.engine.health_time"),
    chain=("more compute threads than CPUs", "each step waits for the slowest thread", "tokens come slowly"),
    severity="warning",
    actions=("engine.set_threads",),
)


MODELS = (DOWN, OVERSUBSCRIBED)
