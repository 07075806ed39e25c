"""Diagnoses a kernel crash from what its dump or log told: the judgement, the treatments, the document."""

from __future__ import annotations

from functools import partial

import numpy as np

from agents.assemble import ALONE
from agents.tools.base import plain
from rca.vmcore import known
from rca.vmcore.classify import Judgement, classify
from remediation.catalogue import propose
from wardround.ids import Prefix, derived_id, new_id
from wardround.models.diagnosis import Coverage, Diagnosis, Status, Usage, Verification, Vote
from wardround.models.observation import Observation
from wardround.models.series import Baseline, Window
from wardround.models.topology import Host, TopologySnapshot
from wardround.models.vmcore import Vmcore
from wardround.settings import Settings


def diagnose_crash(vmcore: Vmcore, settings: Settings, when: float) -> Diagnosis:
    """Return the diagnosis of a crash. `when` is the file's Unix time: the crash's, where the dump does not tell it."""
    run_id = new_id("run")
    identify = partial(_identify, run_id)
    judged = classify(vmcore, when, known.load(settings.state_dir / "cases"), identify)
    end = vmcore.header.time if vmcore.header.time is not None else when
    return Diagnosis(
        run_id=run_id,
        incident_id=derived_id("inc", run_id, "incident"),
        host=vmcore.header.hostname or "unknown host",
        status=_status(vmcore, judged),
        severity=judged.severity,
        start=end - (vmcore.header.uptime or 0.0),
        end=end,
        summary=plain(judged.summary),
        hypotheses=judged.hypotheses,
        ruled_out=judged.ruled_out,
        evidence=judged.evidence,
        verification=_verification(judged),
        actions=tuple(
            action
            for hypothesis in judged.hypotheses[:2]
            for action in propose(judged.actions.get(hypothesis.id, ()), hypothesis, _crashed_host(vmcore, end))
        ),
        coverage=Coverage(vmcore.ran, vmcore.skipped),
        usage=Usage(seconds=vmcore.seconds),
    )


def _status(vmcore: Vmcore, judged: Judgement) -> Status:
    """A dump or log without a crash in it is no proof of health where parts of it could not be read."""
    if judged.hypotheses or vmcore.panic is not None:
        return "problem"
    return "degraded" if vmcore.skipped else "ok"


def _identify(run_id: str, prefix: Prefix, about: str) -> str:
    return derived_id(prefix, run_id, about)


def _verification(judged: Judgement) -> Verification:
    leading = [h for h in judged.hypotheses if h.probability >= 0.5] or list(judged.hypotheses[:1])
    return Verification("unverified", tuple(Vote("rules", h.fault, h.probability) for h in leading), note=ALONE)


def _crashed_host(vmcore: Vmcore, end: float) -> Observation:
    """What a proposal may know of the host that crashed: its name and kernel, nothing that runs."""
    header = vmcore.header
    host = Host(
        name=header.hostname or "unknown host", kernel=header.release, boot_id="", boot_time=0.0, cpus=header.cpus,
        memory=header.memory, page_size=4096, clock_ticks=100,
    )  # fmt: skip
    nothing = Window(np.empty(0), np.empty(0), np.empty((0, 0)), ())
    then = TopologySnapshot(end, {})
    return Observation(host, nothing, Baseline.unknown(0), then, then, (), (), Coverage())
