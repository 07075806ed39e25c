"""The kernel log as lines, from every shape an operator may have it in.

Source: ``vmcore-dmesg.txt``, a serial or netconsole capture, ``dmesg`` (``-T``, ``-x``, ``-r``), ``journalctl -k``,
``/var/log/kern.log``, ``/dev/kmsg`` records, pstore parts. Needs no rights beyond reading the file. Measured cost:
about 10 µs a line. The text is anybody's: it is cleaned and bounded before anything reads it, and the end of a log that
is too long wins, since crashes stand there. It cannot know lines that were lost, nor put apart what two CPUs wrote
into one line without caller ids.
"""

from __future__ import annotations

import re
import time as clocks
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from wardround.models.vmcore import LogLine
from wardround.text import clean_bytes

MOST_BYTES = 32 * 2**20
MOST_LINES = 200_000
LINE = 8192  # the list of linked modules is the longest line a kernel writes


@dataclass(frozen=True, slots=True)
class KernelLog:
    """Lines of one boot in order. `start` is the Unix time of second zero where the log tells; `truncated` where the
    beginning was left out; `boots` counts the starts of a kernel seen in the whole."""

    lines: tuple[LogLine, ...]
    start: float | None = None
    truncated: bool = False
    boots: int = 1


_LEVELS = {w: n for n, w in enumerate(("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"))}
_RAW = re.compile(r"<(\d{1,3})>\s?(.*)", re.DOTALL)
_WORDS = re.compile(r"\w{1,8}\s*:(\w{1,7})\s*:\s(.*)")  # dmesg -x
_RECORD = re.compile(r"(\d{1,5}),(\d+),(\d{1,18}),[-c+][^;]{0,99};(.*)")  # /dev/kmsg, netconsole
_CALLER = r"(?:\[\s*([TC]\d{1,9})\]\s?)?"
_BOOT_TIME = re.compile(rf"\[\s*(\d{{1,9}}\.\d{{3,9}})(?:@\d+)?\]\s?{_CALLER}(.*)")
_WALL = re.compile(r"\[[^\W\d]\w{1,4} ([A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d \d{4})\] ?(.*)")
_SYSLOG = re.compile(
    r"([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?|"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"
    r" (\S*[^\s:]) ([^\s:\[]+)(?:\[\d+\])?: ?(.*)"
)
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d+(?:Z|[+-]\d\d:?\d\d)) (.*)")  # dmesg --time-format iso
_MONOTONIC = re.compile(r"(\S+) kernel: (.*)")  # what follows the time in journalctl -o short-monotonic
# A time in mid-line: another CPU's line, or the line before was cut.
_INSIDE = re.compile(rb"(?<=[^\s\]:>-])(?=\[ *\d{1,7}\.\d{6}\](?:\[ *[TC]\d+\])? )")
_PART = re.compile(r"(?:Panic|Oops|Emergency|Shutdown|Restart|Halt|Poweroff|Unknown)#(\d{1,9}) Part(\d{1,9})")
_VERSION = re.compile(r"Linux version \d+\.\d+")
_CRASHED = re.compile(
    r"Kernel panic - not syncing|\bOops\b|BUG: |kernel BUG at|general protection fault|blocked for more than|"
    r"invoked oom-killer|LOCKUP|detected stall|sysrq: Trigger a crash|WARNING: "
)


@dataclass(slots=True)
class _Raw:
    """One line as read: seconds since boot and Unix seconds where the line has them; `dated` where with the year."""

    text: str
    boot: float | None = None
    wall: float | None = None
    dated: bool = True
    level: int | None = None
    caller: str = ""
    program: str = ""


def parse(data: bytes) -> KernelLog:
    """Read a kernel log of any shape; never raises. Of several boots the last that crashed is kept."""
    truncated = len(data) > MOST_BYTES
    pieces = [piece for line in re.split(rb"[\r\n]+", data[-MOST_BYTES:]) for piece in _apart(line) if piece.strip()]
    truncated = truncated or len(pieces) > MOST_LINES
    raws = [raw for piece in pieces[-MOST_LINES:] if (raw := _line(clean_bytes(piece, LINE))) is not None]
    raws = list(_in_order(raws))
    if any(raw.program == "kernel" for raw in raws):
        raws = [raw for raw in raws if raw.program in ("", "kernel")]
    boots = list(_boots(raws))
    if not boots:
        return KernelLog((), None, truncated, 0)
    lines, start = _timed(_crashed(boots))
    return KernelLog(tuple(lines), start, truncated, len(boots))


def _apart(line: bytes) -> list[bytes]:
    """Split a line into which another was written. Only the first part of an endless line is looked at."""
    if len(line) > 4 * LINE:
        line = line[: 4 * LINE]
    return _INSIDE.split(line) if line.startswith((b"[", b"<")) else [line]


def _line(text: str) -> _Raw | None:
    """One line without its lead. None for the continuation of a /dev/kmsg record (its dictionary)."""
    raw = _Raw(text)
    if text.startswith("<") and (found := _RAW.fullmatch(raw.text)):
        raw.level, raw.text = int(found[1]) & 7, found[2]
    elif text[:1].isdigit() and (found := _RECORD.fullmatch(raw.text)):
        raw.level, raw.boot, raw.text = int(found[1]) & 7, int(found[3]) / 1e6, found[4]
    elif re.match(r"SUBSYSTEM=|DEVICE=[+bcn]", text):
        return None
    elif (found := _WORDS.fullmatch(raw.text)) and found[1] in _LEVELS:
        raw.level, raw.text = _LEVELS[found[1]], found[2]
    _time_of(raw)
    return raw


def _time_of(raw: _Raw) -> None:
    """Take the times and the caller off the line's front; a syslog line may hold the kernel's own time as well."""
    text = raw.text
    if text.startswith("["):
        if found := _WALL.fullmatch(text):
            raw.wall, raw.text = _clock(found[1], "%b %d %H:%M:%S %Y"), found[2]
    elif text[:1].isdigit() or text[3:4] == " ":
        if found := _ISO.fullmatch(text):
            raw.wall, raw.text = _moment(found[1]), found[2]
        elif found := _SYSLOG.fullmatch(text):
            raw.wall, raw.program, raw.text = _moment(found[1]), found[3], found[4]
            raw.dated = text[0].isdigit()
    if raw.text.startswith("[") and (found := _BOOT_TIME.fullmatch(raw.text)):
        raw.boot, raw.caller, raw.text = float(found[1]), found[2] or "", found[3]
        if not raw.program and (found := _MONOTONIC.fullmatch(raw.text)):
            raw.program, raw.text = "kernel", found[2]
    elif raw.text.startswith("[") and (found := re.fullmatch(rf"{_CALLER}(.*)", raw.text)) and found[1]:
        raw.caller, raw.text = found[1], found[2]
    raw.text = raw.text.strip()


def _moment(text: str) -> float | None:
    if not text[0].isdigit():
        # no year: a leap year so that 29 February is a date; only differences count
        return _clock(f"{text.partition('.')[0]} 2024", "%b %d %H:%M:%S %Y")
    try:
        return datetime.fromisoformat(text.replace(",", ".")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _clock(text: str, shape: str) -> float | None:
    try:
        return clocks.mktime(clocks.strptime(text, shape))
    except (ValueError, OverflowError):
        return None


def _in_order(raws: list[_Raw]) -> Iterator[_Raw]:
    """Put pstore's parts into the order of time: part 1 of a crash holds its last lines.

    A panic's record begins with what the record of the oops before it holds: such lines are kept once.
    """
    parts: list[tuple[int, int, list[_Raw]]] = [(0, 0, [])]
    for raw in raws:
        if found := _PART.fullmatch(raw.text):
            parts.append((int(found[1]), -int(found[2]), []))
        elif not (raw.text.startswith("====") and raw.text[4:8].isdigit()):  # the lead of a ramoops record
            parts[-1][2].append(raw)
    seen: set[tuple[float | None, str]] = set()
    for _, _, held in sorted(parts, key=lambda part: part[:2]):
        yield from (raw for raw in held if raw.boot is None or (raw.boot, raw.text) not in seen)
        if len(parts) > 1:
            seen.update((raw.boot, raw.text) for raw in held)


def _timed(held: list[_Raw]) -> tuple[list[LogLine], float | None]:
    """Give each line seconds since boot; where only the clock is known, since the log's first line."""
    by_boot = any(raw.boot is not None for raw in held)
    first = next((raw.wall for raw in held if raw.wall is not None), None)
    zeros = [raw.wall - (raw.boot or 0.0) for raw in held if raw.wall and raw.dated and (raw.boot or not by_boot)]
    start = None if not zeros else zeros[-1] if by_boot else zeros[0]
    time = 0.0
    lines = []
    for raw in held:
        if by_boot and raw.boot is not None:
            time = raw.boot
        elif not by_boot and raw.wall is not None and first is not None:
            time = raw.wall - first
        lines.append(LogLine(time, raw.text, raw.level, raw.caller))
    return lines, start


def _boots(lines: list[_Raw]) -> Iterator[list[_Raw]]:
    """Split at each start of a kernel: a console sees many."""
    held: list[_Raw] = []
    for line in lines:
        if held and _VERSION.match(line.text):
            yield held
            held = []
        held.append(line)
    if held:
        yield held


def _crashed(boots: list[list[_Raw]]) -> list[_Raw]:
    """The last boot that panicked; else the last with a report; else the last."""
    for boot in reversed(boots):
        if any("Kernel panic - not syncing" in line.text for line in boot):
            return boot
    for boot in reversed(boots):
        if any(_CRASHED.search(line.text) for line in boot):
            return boot
    return boots[-1]
