"""Writes a finished document to where it was asked for, and says which exit code it deserves."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import Format, Level
from wardround.errors import WardroundError
from wardround.files import write_whole

if TYPE_CHECKING:
    from wardround.models.document import Document

FAULT_FOUND = 3
_RANK = {"none": 0, "info": 1, "warning": 2, "critical": 3}


@dataclass(frozen=True, slots=True)
class View:
    """How the result is shown."""

    output: Format = "text"
    html: Path | None = None
    fail_on: Level | None = None
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False

    @property
    def progress(self) -> bool:
        return not self.quiet


def emit(document: Document, view: View) -> int:
    """Print the document, write the page where asked, and return the exit code.

    :raises WardroundError: standard output or the page's file cannot be written
    """
    if view.html is not None:
        _write_page(document, view.html)
    try:
        if view.output == "json":
            print(document.to_json())
        elif view.output == "markdown":
            from cli.render.markdown import render_markdown

            print(render_markdown(document), end="")
        else:
            from cli.render.terminal import print_report

            print_report(document, verbose=view.verbose > 0, quiet=view.quiet, no_color=view.no_color)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WardroundError("the result cannot be written to standard output", str(error)) from None
    found = document.status == "problem" and view.fail_on is not None
    return FAULT_FOUND if found and _RANK[document.severity] >= _RANK[view.fail_on or "critical"] else 0


def _write_page(document: Document, path: Path) -> None:
    from cli.render.html import render_html

    try:
        write_whole(path, render_html(document).encode(), 0o644)
    except OSError as error:
        raise WardroundError(f"the page {path} cannot be written", str(error), "choose another place") from None
    print(f"page written to {path}", file=sys.stderr)


def error_json(error: WardroundError, code: int) -> str:
    """Return the object that ``-o json`` prints where there is no diagnosis."""
    body = {"what": error.what, "why": error.why, "do": error.do, "exit_code": code}
    return json.dumps({"schema": "wardround.error/v1", "status": "error", "error": body}, indent=2)
