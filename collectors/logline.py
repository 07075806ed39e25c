"""When a log line was written, by whom, and how grave it is, as far as the line itself says.

Knows syslog's two formats (RFC 3164, RFC 5424's time) and the usual leads of application logs. What it cannot tell, it
leaves: a line without a time gets that of its reading, one without a level is ``info`` unless its words say otherwise.
"""

from __future__ import annotations

import re
import time as clocks
from datetime import UTC, datetime

from wardround.models.records import LogRecord, Severity
from wardround.text import clean_bytes

DAY = 86_400.0
_SYSLOG = re.compile(
    r"(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))"
    r" (?P<host>\S+) (?P<program>[^\s:\[]+)(?:\[(?P<pid>\d+)\])?: (?P<text>.*)"
)
_STAMP = re.compile(r"\W{0,2}(\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s?(Z|[+-]\d\d:?\d\d)?")
_LEVEL = re.compile(
    r"\b(?:(?P<emerg>EMERG(?:ENCY)?|PANIC|panic)|(?P<crit>CRIT(?:ICAL)?|FATAL|Fatal|fatal|critical)|(?P<err>ERR(?:OR)?|SEVERE|"
    r"[Ee]rror|[Ff]ailed|[Ff]ailure|Traceback|[A-Z]\w*(?:Error|Exception))|(?P<warning>WARN(?:ING)?|[Ww]arn(?:ing)?)|"
    r"(?P<notice>NOTICE)|(?P<debug>DEBUG|TRACE))\b"
)


def parse(line: bytes, source: str, now: float, *, unit: str = "", pid: int | None = None) -> LogRecord:
    """Return a line as a record, `now` in Unix seconds; `unit` and `pid` stand where it does not name its program."""
    text = clean_bytes(line)
    syslog = _SYSLOG.fullmatch(text)
    if syslog:
        text = syslog["text"]
        unit = syslog["program"]
        pid = int(syslog["pid"][:9]) if syslog["pid"] else None
        time = _syslog_time(syslog["time"], now)
    else:
        time = _stamp(text)
    # a time that lies ahead is a wrong clock or not a time
    known = time if time is not None and time <= now + 5 else now
    return LogRecord(known, source, text, severity(text), unit, pid)


def severity(text: str) -> Severity:
    """Return how grave a line's words say it is; only its first 200 characters count."""
    found = _LEVEL.search(text, 0, 200)
    return found.lastgroup or "info" if found else "info"  # type: ignore[return-value]  # the groups are severities


def _syslog_time(text: str, now: float) -> float | None:
    if text[:4].isdigit():
        return _stamp(text)
    try:
        # RFC 3164 has no year and means local time; parsed with a leap year so that 29 February is a date
        fields = clocks.strptime(f"2024 {text}", "%Y %b %d %H:%M:%S")
        year = clocks.localtime(now).tm_year
        time = clocks.mktime((year, *fields[1:6], 0, 0, -1))
        return time if time <= now + DAY else clocks.mktime((year - 1, *fields[1:6], 0, 0, -1))
    except (ValueError, OverflowError):
        return None


def _stamp(text: str) -> float | None:
    found = _STAMP.match(text)
    if not found:
        return None
    moment, fraction, zone = found.groups()
    try:
        when = datetime.fromisoformat(moment.replace("/", "-"))
        if zone == "Z":
            when = when.replace(tzinfo=UTC)
        elif zone:
            when = when.replace(tzinfo=datetime.strptime(zone.replace(":", ""), "%z").tzinfo)
        return when.timestamp() + float(f"0.{fraction or 0}")
    except (ValueError, OverflowError, OSError):
        return None
