"""The program's own log: structlog events on standard error, secrets taken out first, JSON where no terminal reads."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from wardround.redaction import redact_event

LEVELS = (logging.ERROR, logging.WARNING, logging.DEBUG)


def configure(verbosity: int = 0, stream: TextIO | None = None, json: bool | None = None) -> None:
    """Set up logging for this process: `verbosity` 0 errors, 1 warnings, 2 everything.

    `json` None means: readable lines where `stream` (standard error) is a terminal, else one JSON object a line.
    """
    out = stream or sys.stderr
    level = LEVELS[max(0, min(verbosity, len(LEVELS) - 1))]
    as_json = not out.isatty() if json is None else json
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, redact_event, structlog.processors.JSONRenderer(default=str)]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            redact_event,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=level if verbosity > 1 else logging.ERROR, stream=out, format="%(name)s: %(message)s")
