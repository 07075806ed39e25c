"""Every fault model is well formed; registration is enough to be checked here."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from rca.faults import all_models
from rca.model import FaultModel
from rca.view import View
from tests.rca.builder import HostBuilder, process
from tests.rca.judge import judge
from wardround.models.metrics import METRICS

MODELS = all_models()
FAULTS = {m.fault for m in MODELS}
LATER = {"engine.errors"}  # named as a symptom; its model comes with the engine collectors


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.fault)
def test_a_model_is_well_formed(model: FaultModel) -> None:
    """Curves ascend and can speak both ways, something is needed, symptoms and metrics are known."""
    assert 0.0 < model.prior < 0.5
    assert any(f.needed for f in model.features)
    assert len({f.name for f in model.features}) == len(model.features)
    assert set(model.symptoms) <= FAULTS | LATER
    assert set(model.effects) <= set(METRICS)
    assert model.fault not in model.symptoms
    assert model.actions
    assert model.chain
    for feature in model.features:
        values = [x for x, _ in feature.curve.points]
        assert all(a < b for a, b in pairwise(values))
        assert feature.specialist in ("metric", "log", "topology")
        assert not feature.needed or (feature.curve.support > 0.3 and feature.curve.against < -0.3)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.fault)
def test_a_model_survives_a_host_of_which_little_is_known(model: FaultModel) -> None:
    """Missing series, no topology: no suspect, or one about which nothing can be said, never an exception."""
    builder = HostBuilder(ticks=2)
    builder.columns = dict(list(builder.columns.items())[:1])
    view = View(builder.build())
    for culprit in model.suspects(view):
        for feature in model.features:
            feature.measure(view, culprit)


def test_a_quiet_host_has_nothing_to_report() -> None:
    """No hypothesis stands on an idle host with some processes."""
    builder = HostBuilder()
    for pid in range(100, 120):
        builder.runs(process(pid, f"daemon{pid}"), cpu=0.001)
    done = judge(builder.build())
    assert done.status == "ok"
    assert not done.hypotheses
    assert "Nothing wrong" in done.summary


def test_the_models_are_those_of_the_published_taxonomy() -> None:
    """Every id and culprit kind agrees with the contract; only those that one host cannot show are missing."""
    path = Path(
        os.environ.get("WARDROUND_CONTRACT", Path(__file__).resolve().parents[3] / "shared/contract/faults.yaml")
    )
    if not path.exists():
        pytest.skip("the contract is not beside this tree (set WARDROUND_CONTRACT)")
    families = yaml.safe_load(path.read_text())["families"]
    published = {fault: entry["culprit"] for family in families.values() for fault, entry in family.items()}
    assert {m.fault: m.culprit for m in MODELS}.items() <= published.items()
    absent = set(published) - FAULTS
    assert {f.partition(".")[0] for f in absent} <= {"cluster", "engine"}
