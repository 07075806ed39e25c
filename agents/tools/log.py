"""Follow-up tool of the log specialist: which log lines hold a text, and how many.

The search is for a plain substring, whatever it looks like. Log lines are the one thing that outsiders may write
themselves: such evidence has trust ``text``, and a model is told its counts, never its words.
"""

from __future__ import annotations

import shlex

from pydantic import Field

from agents.tools.base import Arguments, Tool, plain
from rca.case import Case
from wardround.models.diagnosis import Evidence
from wardround.models.records import SEVERITIES, LogRecord

MOST_LINES = 3
MOST_LINE = 160


class SearchArguments(Arguments):
    """A text to look for, letter case ignored, and the least severe level to look at."""

    text: str = Field(min_length=2, max_length=100)
    severity: str = Field(default="debug", max_length=10)


def search(case: Case, arguments: SearchArguments) -> list[Evidence]:
    """Count the lines that hold the text and show the latest."""
    wanted = arguments.text.casefold()
    worst = SEVERITIES.index(arguments.severity) if arguments.severity in SEVERITIES else len(SEVERITIES) - 1
    observation = case.view.observation
    found = [
        record
        for record in observation.logs
        if SEVERITIES.index(record.severity) <= worst and wanted in record.text.casefold()
    ]
    inside = sum(observation.start <= record.time <= observation.end for record in found)
    sources = sorted({record.source for record in found})
    statement = f"{len(found)} log lines hold {plain(arguments.text)!r}, {inside} of them in the window"
    if found:
        statement += "; the latest: " + " / ".join(_shown(record) for record in found[-MOST_LINES:])
    return [
        Evidence(
            id=case.identify("ev", f"log.search|{worst}|{wanted}"),
            kind="log",
            source=", ".join(sources[:4]) or "agents.tools.log",
            statement=statement,
            values={"lines": len(found), "in_window": inside},
            unit="{line}",
            reproduce=f"journalctl --since -1h | grep -iF {shlex.quote(plain(arguments.text))}; dmesg | tail",
            trust="text",
            start=observation.start,
            end=observation.end,
            feature="search",
        )
    ]


def _shown(record: LogRecord) -> str:
    return plain(record.text)[:MOST_LINE]


TOOLS = (Tool("log.search", "log lines that hold a text", SearchArguments, search),)
