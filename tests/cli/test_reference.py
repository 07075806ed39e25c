"""The documentation of the command line and the schema is what the program says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.main import app
from cli.reference import COMMANDS, pages

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("path", sorted(pages()), ids=str)
def test_the_generated_page_is_up_to_date(path):
    assert (DOCS / path).read_text("utf-8") == pages()[path], "run `python -m cli.reference`"


def test_every_command_has_its_section():
    named = {command.name or command.callback.__name__ for command in app.registered_commands}
    groups = {group.name for group in app.registered_groups}
    assert {words[0] for words in COMMANDS if words} == named | groups
