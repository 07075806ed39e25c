"""Crash loops: a program that dies and is restarted, from how the children of each parent ended."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from rca.faults.shared import in_logs, rise, times
from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View, filled, per_view
from wardround.models.diagnosis import Culprit
from wardround.shell import command

_SEGFAULT = re.compile(r"(?:traps: )?([^\s\[\]]{1,64})\[(\d+)\]:? (?:segfault|general protection|trap )")


@dataclass(frozen=True, slots=True)
class Ends:
    """How the children of one parent that ran one program ended in the window. `lived` is their mean life, seconds."""

    parent: int
    name: str
    count: int
    failed: int
    by_signal: int
    how: str
    number: int
    lived: float


@per_view
def ends(view: View) -> list[Ends]:
    """Ends of children by parent and program, from tracing, those with most failures first."""
    window = view.window
    ended = window.columns("linux.process.children.ended")
    if not ended:
        return []
    amounts = np.nansum(np.diff(filled(window.values[:, ended]), axis=0).clip(min=0), axis=0)
    outcomes: dict[tuple[int, str], Counter[str]] = {}
    for column, amount in zip(ended, amounts, strict=True):
        labels = dict(window.series[column].labels)
        parent = int(labels["pid"])
        if amount > 0 and parent not in view.observation.own_pids:
            outcomes.setdefault((parent, labels["comm"]), Counter())[labels["outcome"]] += round(amount)
    found = [_ends(view, parent, name, seen) for (parent, name), seen in outcomes.items()]
    return sorted(found, key=lambda e: -e.failed)


def _ends(view: View, parent: int, name: str, seen: Counter[str]) -> Ends:
    failures = [(outcome, n) for outcome, n in seen.most_common() if outcome != "ok"]
    worst = failures[0][0] if failures else "ok"
    lived = rise(view, "linux.process.children.lived", pid=parent, comm=name)
    number = worst.rpartition(" ")[2]
    return Ends(
        parent=parent,
        name=name,
        count=sum(seen.values()),
        failed=sum(n for _, n in failures),
        # SIGINT, SIGKILL, SIGPIPE and SIGTERM are how programs are asked to end.
        by_signal=sum(n for o, n in failures if o.startswith("signal") and o not in _ASKED),
        how=f"by signal {number}" if worst.startswith("signal") else f"with exit status {number}",
        number=int(number) if number.isdigit() else 0,
        lived=lived / max(sum(seen.values()), 1),
    )


_ASKED = ("signal 2", "signal 9", "signal 13", "signal 15")


def _crash_suspects(view: View) -> list[Culprit]:
    found = [(float(e.failed), _dying(view, e)) for e in ends(view) if e.failed >= 2]
    for unit in view.observation.after.units.values():
        before = view.observation.before.units.get(unit.name)
        if before is not None and unit.restarts > before.restarts:
            culprit = Culprit("process", unit.name, unit.main_pid or None, (("unit", unit.name),))
            found.append((1000.0 * (unit.restarts - before.restarts), culprit))
    if not view.window.columns("linux.process.children.ended"):
        found += _logged_faults(view)
    return [culprit for _, culprit in sorted(found, key=lambda f: -f[0])[:3]]


def _dying(view: View, e: Ends) -> Culprit:
    """Name a dying program; its pid is that of the instance last seen, else of who restarts it."""
    seen = {**view.observation.before.processes, **view.observation.after.processes}
    alive = [p for p in seen.values() if p.ppid == e.parent and p.name[:15] == e.name[:15]]
    latest = max(alive, key=lambda p: p.start).pid if alive else None
    return Culprit(
        "process", e.name, latest, (("parent", f"{view.name(e.parent)} (pid {e.parent})"), ("ppid", str(e.parent)))
    )


def _logged_faults(view: View) -> list[tuple[float, Culprit]]:
    """Without tracing: programs whose faults the kernel logged under changing pids."""
    seen: dict[str, set[int]] = {}
    for record in view.observation.logs:
        if record.source == "kmsg" and record.time >= view.observation.start and (m := _SEGFAULT.search(record.text)):
            seen.setdefault(m.group(1), set()).add(int(m.group(2)))
    return [(float(len(pids)), Culprit("process", name, max(pids))) for name, pids in seen.items() if len(pids) >= 2]


def _ends_of(view: View, culprit: Culprit) -> Ends | None:
    parent = culprit.label("ppid")
    return next((e for e in ends(view) if e.name == culprit.name and str(e.parent) == parent), None)


def _crashes(view: View, culprit: Culprit) -> Finding | None:
    """How often it died in the window."""
    values: dict[str, float | int | None] = {}
    mine, unit = _ends_of(view, culprit), culprit.label("unit")
    now, was = (s.units.get(unit or "") for s in (view.observation.after, view.observation.before))
    if now is not None and was is not None:
        count, how, source = now.restarts - was.restarts, f"systemd says {now.result}", "collectors.units"
    elif mine is not None:
        count, how, source = mine.failed, mine.how, "collectors.ebpf"
        values = {"outcome": mine.number}
    else:
        count = int(next((n for n, c in _logged_faults(view) if c.name == culprit.name), 0.0))
        how, source = "by a fault the kernel logged", "collectors.kmsg"
    return Finding(
        value=float(count),
        statement=f"{culprit.name} died {times(count)} in {view.seconds:.0f} s, {how}",
        values={"deaths": count, "seconds": view.seconds, **values},
        unit="{process}",
        reproduce=command("systemctl status {}", unit)
        if unit
        else command("dmesg -T | grep -F -- {}; ", culprit.name) + in_logs(view, culprit.name),
        source=source,
        kind="event",
        series=(f"linux.process.children.ended{{comm={culprit.name}, outcome={_outcome(mine)}, pid={mine.parent}}}",)
        if mine
        else (),
    )


def _outcome(mine: Ends) -> str:
    return f"{'signal' if mine.how.startswith('by') else 'exit'} {mine.number}"


def _fatal(view: View, culprit: Culprit) -> Finding | None:
    """How it ends: a fatal signal is a crash; a failure status may be a program's way to say no (grep, test)."""
    mine = _ends_of(view, culprit)
    if mine is None or not mine.failed:
        return None
    by_signal = mine.by_signal / mine.failed
    return Finding(
        value=_severity(mine, by_signal),
        statement=f"{by_signal:.0%} of its failures were fatal signals; it lived {mine.lived:.2f} s on average",
        values={"by_signal": by_signal, "mean_lifetime": mine.lived},
        unit="1",
        reproduce="dmesg -T | grep -E 'segfault|traps:'",
        source="collectors.ebpf",
        kind="event",
    )


def _severity(mine: Ends, by_signal: float) -> float:
    """A fatal signal is a crash; a program that somebody kills is not; a failure at once may be an answer."""
    if by_signal:
        return by_signal
    if mine.how.startswith("by signal"):
        return 0.1
    return 0.5 if mine.lived > 0.02 else 0.15


def _only_fails(view: View, culprit: Culprit) -> Finding | None:
    """Failed ends against all its ends: a loop of a program that mostly succeeds is a script at work."""
    mine = _ends_of(view, culprit)
    if mine is None:
        return None
    return Finding(
        value=mine.failed / mine.count,
        statement=f"{mine.failed} of its {mine.count} ends in the window were failures",
        values={"failed": mine.failed, "ends": mine.count},
        unit="{process}",
        reproduce=in_logs(view, culprit.name),
        source="collectors.ebpf",
        kind="event",
    )


CRASH_LOOP = FaultModel(
    fault="proc.crash_loop",
    culprit="process",
    prior=0.1,
    suspects=_crash_suspects,
    features=(
        Feature(
            "deaths",
            "topology.deaths",
            _crashes,
            Curve((1.0, -2.5), (2.0, 0.3), (3.0, 1.5), (6.0, 2.5)),
            needed=True,
            ask="it dies again within minutes: watch its restarts",
        ),
        Feature("fatal", "topology.deaths", _fatal, Curve((0.1, -2.0), (0.3, -0.5), (0.5, 0.8), (0.9, 2.0))),
        Feature("only_fails", "topology.deaths", _only_fails, Curve((0.3, -3.0), (0.7, -0.5), (0.95, 1.2))),
    ),
    headline=lambda c, f: (
        f"{c.name} (pid {c.pid}) dies and is restarted again and again: {f['deaths'].statement.partition(' died ')[2]}."
    ),
    symptoms=("engine.down", "proc.zombies", "proc.fork_storm"),
    effects=("system.process.created",),
    chain=("the program dies", "its supervisor starts it again", "it dies of the same cause"),
    severity="critical",
    actions=("service.inspect_failure", "host.inspect_coredump", "service.stop_restart_loop"),
)


MODELS = (CRASH_LOOP,)
