"""A change that precedes the onset: packages installed or upgraded shortly before something broke.

Time alone is weak evidence, so a change is only suspected where a program it touched is itself in trouble, and
never confirmed by this evidence.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from rca.model import Curve, FaultModel, Feature, Finding
from rca.view import View
from wardround.models.diagnosis import Culprit
from wardround.shell import command

# dpkg.log: "2026-11-22 09:00:01 upgrade libfoo:amd64 1.0-1 1.0-2"; dnf.log: "Upgraded: foo-1.0-2.x86_64"
_CHANGED = re.compile(
    r"\b(?:status installed|upgrade|Upgraded:|Installed:) ([a-z0-9][\w.+-]+?)(?::\w+)?(?:[- ]\d\S*)? ?(\S*)"
)
REACH = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Change:
    time: float
    package: str
    version: str


def _changes(view: View) -> list[Change]:
    """Package changes of the last hours."""
    found: dict[str, Change] = {}
    for record in view.observation.logs:
        if (
            record.source.endswith(("dpkg.log", "dnf.log"))
            and record.time > view.observation.end - REACH
            and (m := _CHANGED.search(record.text))
        ):
            found[m.group(1)] = Change(record.time, m.group(1), m.group(2))
    return list(found.values())


def _restarted_since(view: View, change: Change) -> list[int]:
    """Processes of a changed package's name that started after the change."""
    stem = change.package.removeprefix("lib").split("-")[0]
    return [
        pid
        for pid, p in view.users.items()
        if p.start >= change.time
        and stem
        and stem in os.path.basename(p.exe or p.name)
        and view.cpu.get(pid, 0.0) > 0.3
    ]


def _suspects(view: View) -> list[Culprit]:
    return [
        Culprit("change", c.package, None, (("version", c.version),))
        for c in _changes(view)
        if _restarted_since(view, c)
    ][:2]


def _precedes(view: View, culprit: Culprit) -> Finding | None:
    change = next((c for c in _changes(view) if c.package == culprit.name), None)
    if change is None:
        return None
    touched = _restarted_since(view, change)
    age = view.observation.end - change.time
    return Finding(
        value=1.0 if touched else 0.0,
        statement=(
            f"package {change.package} changed {age / 60:.0f} minutes ago; "
            f"{len(touched)} busy processes of it started since"
        ),
        values={"minutes_ago": age / 60, "processes": len(touched)},
        unit="min",
        reproduce=command("grep -F -- {} /var/log/dpkg.log | tail", change.package),
        source="collectors.logfiles",
        kind="log",
        trust="host",
        onset=change.time,
    )


REGRESSION = FaultModel(
    fault="change.regression",
    culprit="change",
    prior=0.03,
    suspects=_suspects,
    features=(
        Feature(
            "precedes",
            "log.changes",
            _precedes,
            Curve((0.0, -2.0), (1.0, 2.0)),
            needed=True,
            ask="the fault goes away with the older version",
        ),
    ),
    headline=lambda c, f: f"a change precedes the trouble: {f['precedes'].statement}.",
    effects=("process.cpu.time",),
    chain=("a change went in", "what it touched behaves differently since"),
    severity="warning",
    actions=("change.review",),
)


MODELS = (REGRESSION,)
