"""The options that several commands share, and the values people type in them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Literal["text", "json", "markdown"]
Level = Literal["warning", "critical"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_since(text: str) -> float:
    """Return the Unix time meant by ``15m``, ``2h``, ``1d`` (ago) or an RFC 3339 time.

    :raises typer.BadParameter: for anything else, and for a time in the future
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if ago:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an age such as 15m, 2h, 1d nor an RFC 3339 time") from None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if seconds > time.time():
        raise typer.BadParameter(f"{text!r} lies in the future")
    return seconds


Output = Annotated[Format, typer.Option("--output", "-o", help="Form of the result on standard output.")]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write a self-contained page with charts and the causal graph."),
]
Pid = Annotated[
    int | None,
    typer.Option("--pid", min=1, metavar="PID", help="Ask about this process: what concerns it comes first."),
]
CgroupPath = Annotated[
    str | None,
    typer.Option("--cgroup", metavar="PATH", help="Ask about this control group: what concerns it comes first."),
]
FailOn = Annotated[
    Level | None,
    typer.Option("--fail-on", help="Exit with 3 where a fault of at least this severity was found."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer: no progress, no details.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, metavar="", help="All evidence and coverage; -vv also logs.")
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour (also: NO_COLOR; FORCE_COLOR turns it on).")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=1, metavar="SECONDS", help="Be done by then; a longer window is shortened to fit."),
]
NoInput = Annotated[bool, typer.Option("--no-input", help="Never ask; for scripts.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error arose.")]
