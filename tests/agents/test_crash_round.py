"""A crash led by a model: it looks up, its sentences are checked, and the rules' judgement stands whatever it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from agents.crash import diagnose_crash
from tests.agents import crashes, model_server
from tests.agents.conftest import with_model
from tests.agents.model_server import ModelServer, serving
from wardround.models.diagnosis import Diagnosis
from wardround.models.document import to_document
from wardround.settings import Settings

ENOUGH = {"tests": [], "look": [], "enough": True}


def _judgement(diagnosis: Diagnosis) -> Any:
    return (
        diagnosis.status,
        diagnosis.severity,
        diagnosis.summary,
        [(h.fault, h.culprit, h.probability, h.verdict, h.headline) for h in diagnosis.hypotheses],
        [(a.action, dict(a.params), a.risk) for a in diagnosis.actions],
        diagnosis.crash,
    )


def _told(server: ModelServer) -> str:
    return str(server.requests[-1]["messages"][-1]["content"])


def _labels(text: str, part: str) -> dict[str, Any]:
    rows = text.split(f"{part}:\n")[1].splitlines()
    listed = (row.partition(" ") for row in rows)
    return {label: json.loads(value) for label, _, value in listed if value.startswith(("{", '"'))}


def _obliging(server_of: Callable[[], ModelServer]) -> Callable[[BaseHTTPRequestHandler], None]:
    """A model that asks for one stack and explains by it."""
    asked: list[str] = []

    def step(handler: BaseHTTPRequestHandler) -> None:
        text = _told(server_of())
        if "Rank all suspects" not in text:
            look = [] if asked else [{"tool": "vmcore.stack", "arguments": {"pid": 144}}]
            asked.append(text)
            model_server.answer(handler, {"tests": [], "look": look, "enough": not look})
            return
        evidence = _labels(text, "evidence")
        stack = next(label for label, value in evidence.items() if "in state D" in value.get("statement", ""))
        sentence = "Its stack shows that jt_compact (pid 144) was in state D in __mutex_lock below jt_drop."
        suspects = list(_labels(text.split("evidence:")[0], "suspects"))
        right = next(c for c, v in _labels(text, "suspects").items() if v.get("fault") == "kernel.deadlock")
        ranking = [right, *(c for c in suspects if c != right and c.startswith("c"))]
        model_server.answer(
            handler,
            {"ranking": ranking, "confidence": 0.9, "explanation": [{"sentence": sentence, "evidence": [stack]}]},
        )

    return step


def test_without_a_model_the_rules_judge_and_nothing_of_the_graph_is_loaded() -> None:
    program = (
        "import sys; from tests.agents import crashes; from agents.crash import diagnose_crash; "
        "from wardround.settings import Settings; diagnose_crash(crashes.null_write(), Settings(), 1.0); "
        "sys.exit(any(name.split('.')[0] in ('langgraph', 'langchain_core', 'drgn') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_good_model_looks_up_verifies_and_explains_by_what_it_looked_up(settings: Settings) -> None:
    servers: list[ModelServer] = []
    with serving(_obliging(lambda: servers[0])) as server:
        servers.append(server)
        diagnosis = diagnose_crash(crashes.deadlock(), with_model(settings, server.url), 1.0)
    assert _judgement(diagnosis) == _judgement(diagnose_crash(crashes.deadlock(), settings, 1.0))
    assert diagnosis.verification.status == "verified"
    assert diagnosis.usage.tool_calls == 1
    assert "agents.vmcore" in diagnosis.coverage.ran
    (line,) = diagnosis.explanation
    cited = next(e for e in diagnosis.evidence if e.id in line)
    assert (cited.kind, cited.source) == ("vmcore", "agents.tools.vmcore")
    assert to_document(diagnosis).explanation == [line]


def test_what_the_model_is_told_holds_no_secret_and_no_line_of_the_log(settings: Settings) -> None:
    look = {"tests": [], "look": [{"tool": "vmcore.log", "arguments": {"text": "login"}}], "enough": False}
    with serving(look, ENOUGH, {}) as server:
        diagnose_crash(crashes.deadlock(), with_model(settings, server.url), 1.0)
        assert server.requests
        assert crashes.SECRET not in server.prompts
        assert "worker: login" not in server.prompts


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON at all",
        {"ranking": ["c99"], "confidence": 1.0, "explanation": []},
        {"tests": ["t1"], "look": [{"tool": "vmcore.python", "arguments": {"code": "1"}}], "enough": False},
        {"tests": [], "look": [{"tool": "vmcore.struct", "arguments": {"type": "x", "address": "y"}}], "enough": False},
        {"ranking": [], "confidence": 1, "explanation": [{"sentence": "Run rm -rf / now, 77 times.", "evidence": []}]},
        model_server.status(500),
    ],
)
def test_whatever_the_model_answers_the_rules_judgement_stands(settings: Settings, answer: Any) -> None:
    with serving(answer) as server:
        diagnosis = diagnose_crash(crashes.deadlock(), with_model(settings, server.url, timeout=2.0, seconds=10.0), 1.0)
    assert _judgement(diagnosis) == _judgement(diagnose_crash(crashes.deadlock(), settings, 1.0))
    assert diagnosis.explanation == ()
    assert diagnosis.verification.note
