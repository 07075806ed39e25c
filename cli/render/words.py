"""The wording that all forms of a report share: which words are allowed, how numbers and times read.

"Root cause" is said only of a confirmed hypothesis; everything else is "most likely" or "possible".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from wardround.models.document import Action, Crash, Document, Evidence, Hypothesis, Number
from wardround.text import clean

_BLOCKS = "▁▂▃▄▅▆▇█"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
RISKS = {
    "R0": "only reads",
    "R1": "reversible, local",
    "R2": "interrupts a service",
    "R3": "irreversible or wide",
}
TIERS = {
    "log": "its log alone",
    "dump": "the dump alone",
    "modules": "the dump and module files",
    "debuginfo": "the dump and debug information",
}
TITLES = {"ok": "healthy", "problem": "problem found", "degraded": "could not look well enough", "error": "failed"}


def plain(text: str) -> str:
    """Return host text as one line that cannot steer the reader's terminal."""
    return clean(text)


def found(document: Document) -> list[Hypothesis]:
    """Return the hypotheses that are told as faults, the first one first."""
    return [each for each in document.hypotheses if each.verdict != "possible"]


def nothing_found(document: Document) -> str:
    """Return the headline of a report that names no fault."""
    if document.about == "host" and last_crash(document) and document.status == "problem":
        return "Nothing wrong was found now."
    told = {
        "ok": "No fault found." if document.about == "host" else "No crash found.",
        "degraded": "Not enough could be seen to say whether this host is healthy.",
    }
    return told.get(document.status, "No fault can be named.")


def considered(document: Document) -> list[Hypothesis]:
    """Return those that are only possible."""
    return [each for each in document.hypotheses if each.verdict == "possible"]


def present(document: Document) -> list[Hypothesis]:
    """Return what is told of now: of a running host all that no crash ended, of a crash all of it."""
    return [each for each in found(document) if document.about == "crash" or each.ended is None]


def last_crash(document: Document) -> list[Hypothesis]:
    """Return what a running host's last crash is put down to."""
    return [each for each in found(document) if each not in present(document)]


def whose_crash(hypothesis: Hypothesis, document: Document) -> str:
    """Return ``Last crash: `` before what a crash of the past is put down to, the name where it is another host's."""
    if document.about == "crash" or hypothesis.ended is None:
        return ""
    crashed = document.crash.host if document.crash is not None else ""
    other = crashed and crashed.partition(".")[0].casefold() != document.host.partition(".")[0].casefold()
    return f"Crash of {plain(crashed)}: " if other and document.status != "problem" else "Last crash: "


def heading(hypothesis: Hypothesis) -> str:
    """Return ``Root cause (confirmed, 94 %)`` or the weaker words that the verdict allows."""
    words = {
        "confirmed": "Root cause (confirmed",
        "likely": "Most likely cause (not confirmed",
        "possible": "Possible (",
    }
    joint = "" if hypothesis.verdict == "possible" else ", "
    return f"{words[hypothesis.verdict]}{joint}{percent(hypothesis.probability)})"


def sentence(hypothesis: Hypothesis, document: Document) -> str:
    """Return the hypothesis as a sentence; documents of earlier versions only have the summary."""
    if hypothesis.headline:
        return plain(hypothesis.headline)
    only = len(found(document)) == 1 and hypothesis is found(document)[0]
    return plain(document.summary) if only else f"{hypothesis.fault}: {culprit(hypothesis)}"


def culprit(hypothesis: Hypothesis) -> str:
    """Return kind, name and pid as an operator would type them."""
    who = hypothesis.culprit
    kind = "" if who.kind == "process" else f"{who.kind.replace('_', ' ')} "
    pid = "" if who.pid is None else f" (pid {who.pid})"
    return f"{kind}{plain(who.name)}{pid}"


def percent(share: float) -> str:
    """Return a probability in whole percent; never 100 % or 0 % unless it is exactly that."""
    whole = round(share * 100)
    if whole == 100 and share < 1:
        return "> 99 %"
    if whole == 0 and share > 0:
        return "< 1 %"
    return f"{whole} %"


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    for size, unit, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def clock(time: datetime) -> str:
    return time.strftime("%H:%M:%S UTC")


def moment(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def subject(document: Document) -> str:
    """Return what the report is about: the window of a running host, or the end of a kernel that crashed."""
    crash = document.crash
    if document.about == "host" or crash is None:
        return f"{document.window.seconds:.0f} s until {moment(document.window.end)}"
    if document.status != "problem":
        return f"kernel log until {moment(document.window.end)}"
    return ended(crash)


def ended(crash: Crash) -> str:
    """Return ``crashed 2026-11-22 14:03:12 UTC after 17 s of uptime``, without what is not known."""
    at = f" {moment(crash.time)}" if crash.time is not None else ""
    after = f" after {duration(crash.uptime)} of uptime" if crash.uptime is not None else ""
    return f"crashed{at}{after}"


def kernel(crash: Crash) -> str:
    """Return which kernel it was and what it was read from."""
    release = f"kernel {plain(crash.release)}, " if crash.release else ""
    return f"{release}read from {TIERS.get(crash.tier, crash.tier)}: {plain(crash.source)}"


def since(hypothesis: Hypothesis, document: Document) -> str:
    """Return when it began and how long it has lasted; a beginning before the window is dated in full."""
    if hypothesis.onset is None:
        return "the beginning could not be dated"
    if hypothesis.ended is not None:
        lasted = (hypothesis.ended - hypothesis.onset).total_seconds()
        how = f"{duration(lasted)} before the crash" if lasted >= 1 else "the moment of the crash"
        return f"{moment(hypothesis.onset)}, {how}"
    age = (document.window.end - hypothesis.onset).total_seconds()
    day = "" if age < 43200 else hypothesis.onset.strftime("%Y-%m-%d ")
    return f"{day}{clock(hypothesis.onset)}, for {duration(age)} at the end of the window"


def quantity(value: Number, unit: str) -> str:
    """Return a number with its UCUM unit as people read it: shares in percent, bytes in binary units."""
    if value is None:
        return "unknown"
    if unit == "1":
        return f"{_short(value * 100)} %" if abs(value) <= 10 else _short(value)
    base, slash, per = unit.partition("/")
    if base == "By":
        power = min(len(_BINARY) - 1, int(math.log(abs(value), 1024))) if abs(value) >= 1024 else 0
        return f"{_short(value / 1024**power)} {_BINARY[power]}{slash}{per}"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{_short(value * 1000)} ms" if abs(value) >= 1e-3 else f"{_short(value * 1e6)} µs"
    if unit == "s/s":
        return f"{_short(value * 100)} %"  # a share of time, or of one CPU
    return f"{_short(value)} {base.strip('{}')}{slash}{per}".strip()


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def sparkline(values: Sequence[Number], width: int = 24) -> str:
    """Return the shape of a series from its least to its greatest value; empty for a flat one, a gap is a blank.

    The peak of each stretch is kept, since a fault may be shorter than a column.
    """
    if not values:
        return ""
    first = next((number for number, value in enumerate(values) if value is not None), 0)
    values = values[first:]
    size = math.ceil(len(values) / width)
    chunks = [values[start : start + size] for start in range(0, len(values), size)]
    peaks = [max((v for v in chunk if v is not None), default=None) for chunk in chunks]
    seen = [peak for peak in peaks if peak is not None]
    if not seen:
        return ""
    low, span = min(seen), max(seen) - min(seen)
    if span == 0:
        return ""
    top = len(_BLOCKS) - 1
    level = [None if p is None else round((p - low) / span * top) for p in peaks]
    return "".join(" " if each is None else _BLOCKS[each] for each in level)


def because(ids: Sequence[str], document: Document) -> str:
    """Return the statements behind something, in one line."""
    return "; ".join(plain(each.statement) for each in document.cited(list(ids)))


def treatments(hypothesis: Hypothesis, document: Document) -> list[Action]:
    return [action for action in document.actions if action.treats == hypothesis.id]


def telling(hypothesis: Hypothesis, document: Document) -> list[Evidence]:
    return document.cited(hypothesis.supporting)


def short_name(part: str) -> str:
    return part.removeprefix("collectors.").removeprefix("detectors.")
