"""The program's own log: events with keys, secrets taken out, quiet unless asked."""

from __future__ import annotations

import io
import json

import pytest
import structlog

from wardround.logging import configure
from wardround.redaction import MASK


@pytest.fixture(autouse=True)
def _restore():
    yield
    structlog.reset_defaults()


def test_one_json_object_a_line_with_secrets_taken_out():
    out = io.StringIO()
    configure(2, out)
    structlog.get_logger("x").info("model_called", url="https://bob:pw1234@host/v1", password="abc")
    event = json.loads(out.getvalue())
    assert event["event"] == "model_called"
    assert event["url"] == f"https://bob:{MASK}@host/v1"
    assert event["password"] == MASK
    assert event["timestamp"].endswith("Z")


def test_warnings_are_only_told_with_verbosity():
    for verbosity, told in ((0, 0), (1, 1)):
        out = io.StringIO()
        configure(verbosity, out)
        structlog.get_logger("x").warning("collector_failed", collector="psi")
        assert len(out.getvalue().splitlines()) == told


def test_a_secret_in_an_exception_is_taken_out():
    out = io.StringIO()
    configure(0, out)
    try:
        raise ValueError("cannot reach postgres://bob:pa55@db")
    except ValueError:
        structlog.get_logger("x").exception("store_failed")
    assert "pa55" not in out.getvalue()
    assert "ValueError" in out.getvalue()
