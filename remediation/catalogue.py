"""The closed catalogue: every action by name, and the proposals of a hypothesis.

There are no free commands: what is not listed here cannot be proposed, whoever asks. An action that does not apply
to the culprit (no such cgroup, nothing to change) drafts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from remediation import cgroup, device, engine, filesystem, host, kernel, network, process, service
from remediation.action import Draft, Spec, Target
from wardround.ids import new_id
from wardround.models.diagnosis import Action, Hypothesis
from wardround.models.observation import Observation

# Proposals of one action for one hypothesis.
MOST = 3

CATALOGUE: Mapping[str, Spec] = MappingProxyType(
    {
        spec.name: spec
        for family in (process, cgroup, service, filesystem, device, network, engine, host, kernel)
        for spec in family.ACTIONS
    }
)


def _fresh(name: str) -> str:
    return new_id("act")


def propose(
    names: Iterable[str],
    hypothesis: Hypothesis,
    observation: Observation,
    identify: Callable[[str], str] = _fresh,
) -> tuple[Action, ...]:
    """Return the proposals of the named actions for a hypothesis, the least risky first.

    `identify` gives an action its id from what it is about.

    :raises KeyError: for a name that the catalogue does not hold
    """
    target = Target(hypothesis, observation)
    found = [
        _action(spec, draft, hypothesis, identify)
        for spec in (CATALOGUE[name] for name in dict.fromkeys(names))
        for draft, _ in zip(spec.draft(target), range(MOST), strict=False)
    ]
    return tuple(sorted(found, key=lambda action: action.risk))


def _action(spec: Spec, draft: Draft, hypothesis: Hypothesis, identify: Callable[[str], str]) -> Action:
    params = draft.params.model_dump()
    return Action(
        id=identify(f"{hypothesis.id}|{spec.name}|{sorted(params.items())}"),
        action=spec.name,
        params=params,
        risk=spec.risk,
        preview=draft.preview,
        blast_radius=draft.blast_radius,
        rollback=draft.rollback,
        treats=hypothesis.id,
        precheck=draft.precheck,
        verify=draft.verify,
    )
