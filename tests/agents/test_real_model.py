"""The model path with a real, small model behind a real server: it may judge badly, but it must not break the round."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.round import run_round
from tests.agents import observations
from tests.agents.conftest import with_model
from tests.faults import engine
from wardround.ids import new_id
from wardround.settings import Settings

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(400),
    pytest.mark.skipif(engine.installed() is not None, reason=str(engine.installed())),
]

SCRIPT = Path(engine.__file__).parent / "workloads" / "llama_server.py"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The engine on a free port of loopback, one thread, ended at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (model, *_) = sorted(engine.files().glob("*.gguf"))
    log = tmp_path_factory.mktemp("engine") / "log"
    command = [sys.executable, str(SCRIPT), "-m", str(model), "--port", str(port), "-t", "1", "-c", "8192"]
    env = {**os.environ, "ENGINE_SITE": str(engine.files() / "site")}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=env) as server:
        try:
            _wait(port, server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.3)
    pytest.fail(f"the engine did not come up: {log.read_text()[-2000:]}")


def test_a_real_model_leads_a_round_to_the_rules_diagnosis(settings: Settings, endpoint: str) -> None:
    """Schema answers arrive, are counted, and leave probabilities, order and actions to the rules."""
    run_id = new_id("run")
    configured = with_model(settings, endpoint, timeout=120.0, seconds=300.0)
    led = run_round(observations.throttled_beside_a_suspicion(), configured, run_id=run_id)
    alone = run_round(observations.throttled_beside_a_suspicion(), settings, run_id=run_id, durable=False)
    print(led.verification, led.explanation, led.usage, sep="\n")
    assert [(h.fault, h.probability) for h in led.hypotheses] == [(h.fault, h.probability) for h in alone.hypotheses]
    assert [a.action for a in led.actions] == [a.action for a in alone.actions]
    assert led.usage.model_calls >= 2
    assert led.usage.output_tokens > 0
    assert "gave no usable answer" not in led.verification.note
    assert {vote.by for vote in led.verification.votes} == {"rules", "scripted"}
    cited = {evidence.id for evidence in led.evidence}
    assert all(any(number in sentence for number in cited) for sentence in led.explanation)
