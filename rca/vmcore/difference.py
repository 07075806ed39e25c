"""How two crashes differ: the same bug or another one, on the same kernel or not, and what else is not alike.

Likeness is that of the known cases (`known.compare`); it says how much the stacks share, not that the cause is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rca.vmcore.facts import Facts
from rca.vmcore.known import KnownCase, compare, normalised
from wardround.models.vmcore import Vmcore

MOST_NAMES = 12


@dataclass(frozen=True, slots=True)
class Aspect:
    """One thing to compare, told for both; `same` None where one of them does not know it."""

    name: str
    left: str
    right: str
    same: bool | None


@dataclass(frozen=True, slots=True)
class Difference:
    """`likeness` 0 to 1 of the two crashes' stacks, classes and modules; `shared` the functions in common."""

    likeness: float
    shared: tuple[str, ...]
    aspects: tuple[Aspect, ...]


def difference(left: Vmcore, right: Vmcore) -> Difference:
    """Compare two crashes."""
    one, other = Facts(left, left.header.time or 0.0), Facts(right, right.header.time or 0.0)
    module = one.accused.frame.module if one.accused else ""
    theirs = other.accused.frame.module if other.accused else ""
    case = KnownCase("other", "the other dump", other.kind, normalised(other.stack), theirs)
    match = compare(normalised(one.stack), one.kind, module, case)
    return Difference(match.score, match.shared, tuple(_aspects(one, other)))


def _aspects(one: Facts, other: Facts) -> Iterator[Aspect]:
    pairs = (
        ("kernel", one.vmcore.header.release, other.vmcore.header.release),
        ("build", one.vmcore.header.build_id, other.vmcore.header.build_id),
        ("host", one.vmcore.header.hostname, other.vmcore.header.hostname),
        ("CPUs", _number(one.vmcore.header.cpus), _number(other.vmcore.header.cpus)),
        ("class", one.kind, other.kind),
        ("report", one.panic.report if one.panic else "", other.panic.report if other.panic else ""),
        ("function", _accused(one), _accused(other)),
        ("taint", one.panic.tainted if one.panic else "", other.panic.tainted if other.panic else ""),
        ("lock cycles", str(len(one.vmcore.cycles)), str(len(other.vmcore.cycles))),
        ("tasks", _number(len(one.vmcore.tasks)), _number(len(other.vmcore.tasks))),
    )
    for name, left, right in pairs:
        yield Aspect(name, left or "not known", right or "not known", left == right if left and right else None)
    yield _names("tasks in uninterruptible sleep", _waiting(one), _waiting(other))
    yield _names("modules", {m.name for m in one.vmcore.modules}, {m.name for m in other.vmcore.modules})


def _number(value: int) -> str:
    return str(value) if value else ""


def _accused(facts: Facts) -> str:
    return facts.accused.frame.name if facts.accused else ""


def _waiting(facts: Facts) -> set[str]:
    return {task.comm for task in facts.vmcore.tasks if task.state == "D"}


def _names(name: str, left: set[str], right: set[str]) -> Aspect:
    """Only those that one side has alone."""
    return Aspect(name, _list(left - right), _list(right - left), left == right)


def _list(names: set[str]) -> str:
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") or "none beyond the other's"
