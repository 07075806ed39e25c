"""What an action of the catalogue declares, and how its risk follows from its effect.

Risk is computed from what an action does, never written by hand and never taken from a model: R0 reads, R1 is
reversible and local, R2 interrupts a service, R3 is irreversible or wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from wardround.models.diagnosis import Hypothesis, Risk
from wardround.models.observation import Observation
from wardround.models.topology import Cgroup, Engine, Mount, Process, Socket


class Params(BaseModel):
    """Base of all parameters: immutable, bounded, and nothing beyond what the action declares."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Effect:
    """What carrying an action out does. `wide` reaches beyond the culprit; `interrupts` stops something that serves."""

    changes: bool = True
    reversible: bool = True
    interrupts: bool = False
    wide: bool = False

    @property
    def risk(self) -> Risk:
        if not self.changes:
            return "R0"
        if self.wide or not self.reversible:
            return "R3"
        return "R2" if self.interrupts else "R1"


READS = Effect(changes=False)
LOCAL = Effect()
INTERRUPTS = Effect(interrupts=True)
WIDE = Effect(wide=True)
IRREVERSIBLE = Effect(reversible=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """One proposal for one target. `preview` tells the value now and the value after; `blast_radius` who feels it."""

    params: Params
    preview: str
    blast_radius: str
    rollback: str
    precheck: str
    verify: str


@dataclass(frozen=True)
class Target:
    """What an action is drafted against: the hypothesis it treats and the observation it was found in."""

    hypothesis: Hypothesis
    observation: Observation

    @property
    def name(self) -> str:
        return self.hypothesis.culprit.name

    @cached_property
    def processes(self) -> dict[int, Process]:
        return self.observation.after.processes

    @cached_property
    def process(self) -> Process | None:
        """The culprit process as it stood at the end of the window; never one of ours, a kernel thread or pid 1."""
        pid = self.hypothesis.culprit.pid
        found = self.processes.get(pid) if pid is not None else None
        if found is None or found.kernel or found.pid <= 1 or found.pid in self.observation.own_pids:
            return None
        return found

    def cgroup(self, *controllers: str) -> Cgroup | None:
        """Return the culprit cgroup, or the culprit process's own under one of `controllers`; never the root."""
        known = self.observation.after.cgroups
        culprit = self.hypothesis.culprit
        if culprit.kind == "cgroup":
            return known.get(self.name)
        process = self.process or self.observation.before.processes.get(culprit.pid or 0)
        paths = [process.cgroup(controller) for controller in controllers] if process is not None else []
        paths += [str(e.attributes.get("cgroup", "")) for e in self.observation.events if e.pid == culprit.pid]
        return next((known[path] for path in paths if path != "/" and path in known), None)

    def members(self, path: str) -> int:
        """Return how many processes are in a cgroup."""
        return sum(path in dict(p.cgroups).values() for p in self.processes.values())

    @cached_property
    def unit(self) -> str:
        """The systemd unit behind the culprit, empty where there is none that restarts alone."""
        name = (self.process.unit if self.process else "") or self.hypothesis.culprit.label("unit") or ""
        return name if name.endswith(".service") and name in self.observation.after.units else ""

    @cached_property
    def mount(self) -> Mount | None:
        """The culprit filesystem, or the first one on the culprit device."""
        names = (self.name, f"/dev/{self.name}")
        mounts = self.observation.after.mounts
        return next((m for m in mounts if m.mountpoint == self.name or m.device in names), None)

    @cached_property
    def listeners(self) -> list[Socket]:
        """The culprit's listening sockets: the one it is blamed for, else all of its process."""
        culprit = self.hypothesis.culprit
        address = culprit.label("listen")
        every = [s for s in self.observation.after.sockets if s.state == "listen"]
        return [
            s for s in every if (s.local == address if address else culprit.pid is not None and s.pid == culprit.pid)
        ]

    @cached_property
    def engine(self) -> Engine | None:
        culprit = self.hypothesis.culprit
        address = culprit.label("address") or self.name
        for engine in self.observation.after.engines:
            if address == engine.address or (engine.pid is not None and engine.pid == culprit.pid):
                return engine
        return None

    @property
    def metrics(self) -> str:
        """What must return to usual for the treatment to have worked."""
        metrics = [e for e in self.hypothesis.explains if e.count(".") >= 2]
        return ", ".join(metrics[:3]) if metrics else f"{self.hypothesis.fault} is no longer found"


Drafter = Callable[[Target], Iterator[Draft]]


@dataclass(frozen=True)
class Spec:
    """One action of the catalogue."""

    name: str
    about: str
    params: type[Params]
    effect: Effect
    draft: Drafter = field(repr=False)

    @property
    def risk(self) -> Risk:
        return self.effect.risk
