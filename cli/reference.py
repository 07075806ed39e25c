"""Writes what the documentation takes from the program: every command's help, and the document's schema.

``python -m cli.reference`` writes both below ``docs/``; a test checks that what is there is what would be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from wardround.models.document import schema

WIDTH = 88
COMMANDS = (
    (), ("watch",), ("record",), ("replay",), ("vmcore", "explain"), ("vmcore", "show"), ("vmcore", "slim"),
    ("vmcore", "diff"), ("vmcore", "keep"), ("vmcore", "cases"), ("doctor",), ("schema",), ("config", "show"),
)  # fmt: skip
_HEAD = """# The command line

Written by `python -m cli.reference` from the program's own help; do not edit.
"""


def pages() -> dict[Path, str]:
    """Return each generated file's content by its path below ``docs/``."""
    return {
        Path("cli.md"): "\n".join([_HEAD, *_sections()]),
        Path("schema/diagnosis.v1.json"): json.dumps(schema(), indent=2) + "\n",
    }


def _sections() -> Iterator[str]:
    runner = CliRunner()
    for words in COMMANDS:
        shown = runner.invoke(app, [*words, "--help"], prog_name="diagnose", terminal_width=WIDTH)
        text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        yield f"## `{' '.join(['diagnose', *words])}`\n\n```text\n{text}\n```\n"


def main(docs: Path = Path("docs")) -> None:
    for path, content in pages().items():
        (docs / path).parent.mkdir(parents=True, exist_ok=True)
        (docs / path).write_text(content, "utf-8")


if __name__ == "__main__":
    main()
