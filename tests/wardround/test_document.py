"""The published document: exact names, nothing that JSON cannot carry, a schema that its own output passes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from tests.cli import samples
from wardround.models.document import Document, moment, rfc3339, schema, to_document

SHARED = Path(os.environ.get("WARDROUND_CONTRACT", "../shared/contract"))
SAMPLES = [samples.problem, samples.healthy, samples.degraded]
FIELDS = {
    "schema", "run_id", "incident_id", "host", "status", "severity", "window", "summary", "hypotheses", "ruled_out",
    "evidence", "verification", "actions", "coverage", "usage",
}  # fmt: skip
HYPOTHESIS = {
    "id", "fault", "probability", "verdict", "culprit", "onset", "supporting", "contradicting", "explains",
    "causal_chain", "would_confirm",
}  # fmt: skip
EVIDENCE = {
    "id", "kind", "source", "statement", "values", "unit", "baseline", "window", "reproduce", "trust",
}  # fmt: skip
ACTION = {"id", "action", "params", "risk", "preview", "blast_radius", "rollback", "treats"}


def printed(make) -> dict:
    return json.loads(to_document(make()).to_json())


@pytest.mark.parametrize("make", SAMPLES)
def test_every_promised_field_is_printed(make):
    document = printed(make)
    assert document.keys() >= FIELDS
    assert document["schema"] == "wardround.diagnosis/v1"
    assert document["window"].keys() == {"from", "to", "seconds"}
    for part, names in (("hypotheses", HYPOTHESIS), ("evidence", EVIDENCE), ("actions", ACTION)):
        for each in document[part]:
            assert each.keys() >= names
    assert document["verification"].keys() == {"status", "votes", "causal_check", "grounding_check", "note"}
    assert document["coverage"].keys() == {"ran", "skipped"}
    assert document["usage"].keys() >= {"seconds", "tool_calls", "model_calls", "input_tokens", "output_tokens"}


@pytest.mark.parametrize("make", SAMPLES)
def test_the_schema_accepts_what_is_printed(make):
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(printed(make), schema())


@pytest.mark.parametrize("make", SAMPLES)
def test_reading_a_printed_document_gives_it_back(make):
    document = to_document(make())
    again = Document.model_validate_json(document.to_json())
    assert again == document
    assert again.to_json() == document.to_json()


def test_the_schema_refuses_a_wrong_status_a_probability_above_one_and_a_missing_field():
    for path, value in ((("status",), "fine"), (("hypotheses", 0, "probability"), 1.5), (("run_id",), None)):
        document = printed(samples.problem)
        part = document
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema())


def test_not_a_number_and_infinity_become_null():
    evidence = replace(samples.FULL, values={"nan": float("nan"), "inf": float("inf"), "one": 1})
    document = printed(lambda: replace(samples.problem(), evidence=(evidence,)))
    assert document["evidence"][0]["values"] == {"nan": None, "inf": None, "one": 1}
    chart = replace(samples.problem().charts[0], times=(1.0, 2.0), values=(float("nan"), 3.0))
    document = printed(lambda: replace(samples.problem(), charts=(chart,)))
    assert document["charts"][0]["values"] == [None, 3.0]


def test_a_name_that_is_no_utf8_can_still_be_printed():
    culprit = replace(samples.THROTTLING.culprit, name="/shop/\udcff")
    document = printed(lambda: replace(samples.problem(), hypotheses=(replace(samples.THROTTLING, culprit=culprit),)))
    assert document["hypotheses"][0]["culprit"]["name"] == "/shop/?"


def test_an_onset_that_could_not_be_dated_is_null():
    undated = replace(samples.THROTTLING, onset=float("nan"))
    assert printed(lambda: replace(samples.problem(), hypotheses=(undated,)))["hypotheses"][0]["onset"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1970-01-01T00:00:00Z"), (1.25, "1970-01-01T00:00:01.250Z"), (1.9996, "1970-01-01T00:00:02Z")],
)
def test_times_are_utc_with_milliseconds_only_where_there_are_any(seconds, text):
    assert rfc3339(moment(seconds)) == text


def test_a_field_of_a_later_version_is_no_error_to_a_reader():
    document = printed(samples.problem) | {"later": 1}
    assert Document.model_validate(document).run_id == document["run_id"]


def test_cited_evidence_comes_in_the_order_of_the_ids_and_unknown_ids_are_left_out():
    document = to_document(samples.problem())
    assert [each.id for each in document.cited(["ev_03", "ev_99", "ev_01"])] == ["ev_03", "ev_01"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared contract is not beside this checkout")
def test_the_shared_example_is_read_and_printed_unchanged():
    example = json.loads((SHARED / "diagnosis.example.json").read_text())
    jsonschema.validate(example, schema())
    again = json.loads(Document.model_validate(example).to_json())

    def includes(ours, theirs):
        if isinstance(theirs, dict):
            return all(key in ours and includes(ours[key], value) for key, value in theirs.items())
        if isinstance(theirs, list):
            return len(ours) == len(theirs) and all(map(includes, ours, theirs))
        return ours == theirs

    assert includes(again, example)
