"""Secrets go, what names them stays, and ordinary text is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.redaction import MASK, redact, redact_event, redact_value

# put together at run time, so that no scanner takes this file for a leak
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2" * 9
SLACK = "xoxb-" + "123456789012-abcdefghij"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + "c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\ndef\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("secret", [AWS, GITHUB, SLACK, JWT, PEM, "hf_" + "x" * 30, "sk-" + "proj-" + "y" * 24])
def test_known_tokens_are_found_anywhere(secret):
    clean = redact(f"before {secret} after")
    assert clean == f"before {MASK} after"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mysqld --password=hunter2 --port=3306", f"mysqld --password={MASK} --port=3306"),
        ("tool --api-key s3cr3t! --verbose", f"tool --api-key {MASK} --verbose"),
        ("PGPASSWORD='with space' psql", f"PGPASSWORD={MASK} psql"),
        ('{"access_token": "abc", "n": 1}', f'{{"access_token": {MASK}, "n": 1}}'),
        ("postgres://bob:pa55@db:5432/shop", f"postgres://bob:{MASK}@db:5432/shop"),
        ("redis://:pa55@cache", f"redis://:{MASK}@cache"),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {MASK}"),
        ("client_secret: x1y2z3", f"client_secret: {MASK}"),
    ],
)
def test_a_value_whose_key_names_a_secret_goes_and_the_key_stays(text, clean):
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "nr_throttled rose by 212 of 300 periods",
        "n_token = 512, tokens: 4096",
        "https://example.org:8443/path?x=1",
        "the keyboard driver passed its self test",
        "llama_decode: 17 tokens per second",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert redact(text) == text


@given(st.text())
def test_redacting_twice_changes_nothing_more_and_never_fails(text):
    assert redact(redact(text)) == redact(text)


def test_containers_are_cleaned_inside_and_a_telling_key_takes_its_whole_value():
    event = {"event": "call", "api_key": "abc", "argv": ["--token=x1y2z3", "ok"], "nested": {"password": "p"}, "n": 3}
    expected = {
        "event": "call",
        "api_key": MASK,
        "argv": [f"--token={MASK}", "ok"],
        "nested": {"password": MASK},
        "n": 3,
    }
    assert redact_value(event) == expected
    assert redact_event(None, "info", dict(event)) == expected
