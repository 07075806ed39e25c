"""What a fault scenario is: a real fault, what the diagnosis must say of it, and whether this host can show it.

A scenario is one function in a family's file, registered with `@scenario`. It works on a `Stage`, waits until
the kernel's own counters prove that the fault bites, and returns the ground truth. It cannot know what else is
wrong with the host it runs on.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.faults.cgroups import hierarchy
from tests.faults.stage import Stage

CPUS = len(os.sched_getaffinity(0))
FAMILIES = ("cpu", "mem", "io", "net", "proc", "combined", "engine", "healthy")


def _nothing() -> frozenset[int]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Truth:
    """One fault that is really there, and the answers accepted as its culprit.

    `pids` is asked after the diagnosis, since some culprits die and come back. `names` stands in where no pid is fair.
    `symptoms` are other fault ids that truly hold while this one lasts; naming them beside it is no false alarm.
    """

    fault: str
    kind: str
    names: frozenset[str] = frozenset()
    pids: Callable[[], frozenset[int]] = _nothing
    symptoms: frozenset[str] = frozenset()

    def accepts(self, culprit: dict[str, Any] | None) -> bool:
        """Whether a culprit of a diagnosis document is the right one."""
        if not culprit or culprit.get("kind") != self.kind:
            return False
        return culprit.get("pid") in self.pids() or str(culprit.get("name")) in self.names


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault in force. `held` is asked after the diagnosis and says whether the fault lasted until then."""

    truths: tuple[Truth, ...]
    held: Callable[[], bool] = field(default=lambda: True)


def process(fault: str, *pids: int, names: tuple[str, ...] = (), symptoms: tuple[str, ...] = ()) -> Truth:
    """A fault whose culprit is a process, known by pid."""
    return Truth(fault, "process", frozenset(names), lambda: frozenset(pids), frozenset(symptoms))


def entity(fault: str, kind: str, *names: str, symptoms: tuple[str, ...] = ()) -> Truth:
    """A fault whose culprit goes by name: a cgroup, a device, a mount point, an interface."""
    return Truth(fault, kind, frozenset(names), symptoms=frozenset(symptoms))


Need = Callable[[], str | None]
"""None where the host has what a scenario needs, else the reason why not."""


def root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def compiler() -> str | None:
    return None if shutil.which("gcc") or shutil.which("cc") else "needs a C compiler"


def cpus(count: int) -> Need:
    return lambda: None if len(os.sched_getaffinity(0)) >= count else f"needs {count} CPUs"


def tool(*names: str) -> Need:
    def need() -> str | None:
        missing = [name for name in names if not shutil.which(name)]
        return f"needs {', '.join(missing)}" if missing else None

    return need


def device(path: str) -> Need:
    return lambda: None if os.path.exists(path) else f"the kernel has no {path}"


def controller(name: str) -> Need:
    return lambda: None if hierarchy(name) else f"no cgroup hierarchy holds the {name} controller"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A registered scenario; `faults` is empty for a healthy host."""

    id: str
    faults: tuple[str, ...]
    about: str
    needs: tuple[Need, ...]
    body: Callable[[Stage], Injected]
    lasts_s: float

    def probe(self) -> str | None:
        """None when this host can show the fault, else why not."""
        reasons = [reason for need in self.needs if (reason := need())]
        return "; ".join(reasons) or None

    @contextmanager
    def inject(self) -> Iterator[Injected]:
        """Hold the fault for the body of the `with`; nothing of it is left afterwards.

        Raises NotBitingError when the fault does not take hold, LeftBehindError when something could not be undone.
        """
        with Stage(self.lasts_s) as stage:
            yield self.body(stage)


_REGISTRY: dict[str, Scenario] = {}


def scenario(
    id: str, *faults: str, needs: tuple[Need, ...] = (), lasts_s: float = 90.0
) -> Callable[[Callable[[Stage], Injected]], Callable[[Stage], Injected]]:
    """Register an injector as `family.fault/variant`; the fault is the part before the slash unless `faults` is given.

    `lasts_s`: the janitor ends the fault after this time whatever happens.
    """

    def register(body: Callable[[Stage], Injected]) -> Callable[[Stage], Injected]:
        if id in _REGISTRY:
            raise ValueError(f"two scenarios are called {id}")
        named = id.split("/")[0]
        truths = faults or (() if named.startswith("healthy") else (named,))
        about = (body.__doc__ or "").strip().split("\n")[0]
        _REGISTRY[id] = Scenario(id, truths, about, needs, body, lasts_s)
        return body

    return register


def scenarios() -> dict[str, Scenario]:
    """All scenarios by id, in the order of the families."""
    for family in FAMILIES:
        importlib.import_module(f"tests.faults.{family}")
    return dict(_REGISTRY)
