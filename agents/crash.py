"""Diagnoses a kernel crash from what its dump or log told: the judgement, the treatments, the document.

The rules judge alone, in milliseconds. Where a model is configured it then leads the same graph as a round of a host
over what is known (`agents.crash_round`): it may look things up in the dump, and explain; it changes no probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from agents.events import Listener, nobody
from agents.words import ALONE, cleaned
from rca.ground import grounded
from rca.vmcore import known
from rca.vmcore.classify import Judgement, classify
from remediation.catalogue import propose
from wardround.ids import Prefix, derived_id, new_id
from wardround.models.diagnosis import (
    Action,
    Coverage,
    Crash,
    Culprit,
    Diagnosis,
    Hypothesis,
    Status,
    Usage,
    Verification,
    Vote,
)
from wardround.models.observation import Observation
from wardround.models.series import Baseline, Window
from wardround.models.topology import Host, TopologySnapshot
from wardround.models.vmcore import PastCrash, Vmcore
from wardround.redaction import plain
from wardround.settings import Settings

TREATED = 2  # hypotheses whose treatment is proposed


def diagnose_crash(vmcore: Vmcore, settings: Settings, when: float, on_event: Listener = nobody) -> Diagnosis:
    """Return the diagnosis of a crash. `when` is the file's Unix time: the crash's, where the dump does not tell it."""
    run_id = new_id("run")
    judged = judge(vmcore, settings, when, run_id)
    end = vmcore.header.time if vmcore.header.time is not None else when
    observation = observation_of(vmcore, end)
    diagnosis = Diagnosis(
        run_id=run_id,
        incident_id=derived_id("inc", run_id, "incident"),
        host=plain(vmcore.header.hostname) or "unknown host",
        status=_status(vmcore, judged),
        severity=judged.severity,
        start=end - (vmcore.header.uptime or 0.0),
        end=end,
        summary=judged.summary,
        hypotheses=tuple(replace(hypothesis, ended=end) for hypothesis in judged.hypotheses),
        ruled_out=judged.ruled_out,
        evidence=judged.evidence,
        verification=_verification(judged),
        actions=actions(judged, observation, partial(derived_id, "act", run_id)),
        coverage=Coverage(vmcore.ran, vmcore.skipped),
        usage=Usage(seconds=vmcore.seconds),
        about="crash",
        crash=judged.crash,
    )
    if not settings.model.configured or not judged.hypotheses:
        return diagnosis
    from agents.crash_round import explained  # loads langgraph: only where a model is asked

    return explained(diagnosis, judged, observation, settings, on_event)


def judge(vmcore: Vmcore, settings: Settings, when: float, run_id: str) -> Judgement:
    """Return the judgement of a crash, its text without secrets and control sequences; ids follow from `run_id`."""
    judged = classify(vmcore, when, known.load(known.library(settings.state_dir)), partial(_identify, run_id))
    return replace(
        judged,
        hypotheses=tuple(_plain_hypothesis(each) for each in judged.hypotheses),
        ruled_out=tuple(replace(each, culprit=plain(each.culprit)) for each in judged.ruled_out),
        evidence=tuple(cleaned(each) for each in judged.evidence),
        summary=plain(judged.summary),
        crash=_plain_crash(judged.crash),
    )


def grounding(judged: Judgement) -> str:
    """Say whether every figure that the cited evidence tells stands in its values."""
    cited = {number for h in judged.hypotheses for number in (*h.supporting, *h.contradicting)}
    return "passed" if all(grounded(e.statement, [e]) for e in judged.evidence if e.id in cited) else "failed"


def actions(judged: Judgement, observation: Observation, identify: Callable[[str], str]) -> tuple[Action, ...]:
    """Propose what treats the first hypotheses, the same change once."""

    def drafted() -> Iterator[Action]:
        for hypothesis in judged.hypotheses[:TREATED]:
            yield from propose(judged.actions.get(hypothesis.id, ()), hypothesis, observation, identify)

    found: dict[tuple[str, str], Action] = {}
    for action in drafted():
        found.setdefault((action.action, str(sorted(action.params.items()))), action)
    return tuple(found.values())


def observation_of(vmcore: Vmcore, end: float) -> Observation:
    """What a round may know of the host that crashed: its name, its kernel and the crash; nothing that runs."""
    header = vmcore.header
    host = Host(
        name=header.hostname or "unknown host", kernel=header.release, boot_id="", boot_time=0.0, cpus=header.cpus,
        memory=header.memory, page_size=4096, clock_ticks=100,
    )  # fmt: skip
    nothing = Window(np.empty(0), np.empty(0), np.empty((0, 0)), ())
    then = TopologySnapshot(end, {})
    dump, log = (header.path, "") if header.tier != "log" else ("", header.path)
    crash = PastCrash(end, dump, log, header.size, vmcore)
    return Observation(host, nothing, Baseline.unknown(0), then, then, (), (), Coverage(), crashes=(crash,))


def _status(vmcore: Vmcore, judged: Judgement) -> Status:
    """A dump or log without a crash in it is no proof of health where parts of it could not be read."""
    if judged.hypotheses or vmcore.panic is not None:
        return "problem"
    return "degraded" if vmcore.skipped else "ok"


def _identify(run_id: str, prefix: Prefix, about: str) -> str:
    return derived_id(prefix, run_id, about)


def _verification(judged: Judgement) -> Verification:
    leading = [h for h in judged.hypotheses if h.probability >= 0.5] or list(judged.hypotheses[:1])
    votes = tuple(Vote("rules", h.fault, h.probability) for h in leading)
    return Verification("unverified", votes, grounding_check=grounding(judged), note=ALONE)


def _plain_hypothesis(hypothesis: Hypothesis) -> Hypothesis:
    culprit = hypothesis.culprit
    return replace(
        hypothesis,
        culprit=Culprit(culprit.kind, plain(culprit.name), culprit.pid, _plain_labels(culprit)),
        causal_chain=_plain_all(hypothesis.causal_chain),
        would_confirm=_plain_all(hypothesis.would_confirm),
        headline=plain(hypothesis.headline),
    )


def _plain_labels(culprit: Culprit) -> tuple[tuple[str, str], ...]:
    return tuple((key, plain(value)) for key, value in culprit.labels)


def _plain_crash(crash: Crash) -> Crash:
    return replace(
        crash,
        host=plain(crash.host),
        release=plain(crash.release),
        message=plain(crash.message),
        task=plain(crash.task),
        stacks=tuple(replace(each, task=plain(each.task), frames=_plain_all(each.frames)) for each in crash.stacks),
        waits=_plain_all(crash.waits),
    )


def _plain_all(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(line) for line in lines)
