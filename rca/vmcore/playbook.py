"""What a playbook declares: one kernel fault, whom it may accuse, and the clues in a crash that raise or lower it.

A playbook is data, like the fault models of a live host (`rca.model`), but it asks a `Vmcore` instead of a running
system. It decides nothing by itself: `rca.vmcore.classify` asks its clues and adds up the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rca.model import Curve, Finding
from rca.vmcore.facts import Facts
from wardround.models.diagnosis import Culprit, CulpritKind, SeverityLevel


@dataclass(frozen=True)
class Clue:
    """One question to a crash. `curve` maps the finding's value to a log-likelihood ratio; a `needed` clue must speak
    in favour before the fault counts as confirmed; `ask` says in words what would confirm it."""

    name: str
    measure: Callable[[Facts, Culprit], Finding | None]
    curve: Curve
    needed: bool = False
    ask: str = ""


TREATMENT = ("host.collect_vmcore", "host.update_kernel", "kernel.block_module")


@dataclass(frozen=True)
class Playbook:
    """One fault of the taxonomy. `suspects` come most suspicious first; `symptoms` are faults it brings about, which
    are then no causes of their own."""

    fault: str
    culprit: CulpritKind
    prior: float
    suspects: Callable[[Facts], Sequence[Culprit]]
    clues: tuple[Clue, ...]
    headline: Callable[[Facts, Culprit, Mapping[str, Finding]], str]
    chain: Callable[[Facts, Culprit], tuple[str, ...]]
    symptoms: tuple[str, ...] = ()
    severity: SeverityLevel = "critical"
    actions: tuple[str, ...] = TREATMENT
