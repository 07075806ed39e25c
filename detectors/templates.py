"""Log templates: what the lines say once their variable parts are masked, which are new, and which burst.

Mining is Drain's fixed-depth tree (drain3) behind one combined mask and a cache of masked lines. A template is new by
how seldom its source brings new ones; it bursts by its own count in windows of the same length before, with
their scatter (log lines come in clumps, a plain Poisson law would cry at each). Known kernel messages are not
judged here: `rca` reads them by meaning.

Cannot know: what is usual without records from before the window; then nothing is said.

Cost: measured by ``python -m benchmarks.detectors``: about 100,000 lines a second on one core, 2,000 templates at most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detectors.statistics import count_tail
from wardround.models.records import LogRecord
from wardround.models.series import FloatArray, IntArray

# One expression for all kinds. Each alternative opens with a character class and holds no group, which lets the
# engine skip it by its first character: three times as fast as named groups.
_HEX = "[0-9a-fA-F]"
_VARIABLE = re.compile(
    r"(?<![\w<])(?:"
    r"/(?:[\w.@%+~-]+/)+[\w.@%+~-]*"  # a path of two parts or more
    rf"|{_HEX}{_HEX}{{7}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}\b"  # UUID
    rf"|{_HEX}{_HEX}{{0,3}}(?::{{1,2}}{_HEX}{{1,4}}){{3,7}}\b"  # MAC or IPv6
    r"|[0-9][0-9]{0,2}(?:\.[0-9]{1,3}){3}(?::[0-9]+)?\b"  # IPv4, with port
    r"|[0-9][0-9]{1,3}[:-][0-9]{2}[:-][0-9]{2}(?:[T ,.][0-9:.,+Z-]*)?(?!\w)"  # a date, a time or both
    rf"|0x{_HEX}+\b"
    r"|[0-9][0-9]*(?:\.[0-9]+)*(?:[kKMGT]i?B?|ms|us|ns|s|%)?(?!\w)"  # a number, with its unit
    rf"|[0-9a-fA-F](?=[a-fA-F]*[0-9]){_HEX}{{7,}}\b"  # a hash
    r")"
)

LONGEST = 1024  # characters of a line that are mined
MOST_WINDOWS = 240  # windows before this one that are compared
FEWEST_WINDOWS = 8  # fewer tell nothing about what is usual
FEWEST_IN_BURST = 5


def mask(text: str) -> str:
    """Replace the variable parts of a line.

    >>> mask("sda1: I/O error at 0x1f4c, 12.5ms, from 10.0.0.7:443 in /var/lib/db/7")
    'sda1: I/O error at <HEX>, <NUM>, from <IP> in <PATH>'
    """
    return _VARIABLE.sub(_kind, text[:LONGEST])


def _kind(match: re.Match[str]) -> str:
    """Name what was matched; the alternatives differ enough to be told apart by looking."""
    found = match[0]
    if found.isdigit():
        return "<NUM>"
    if found[0] == "/":
        return "<PATH>"
    if found.count(".") == 3 and found[-1].isdigit() and "-" not in found:
        return "<IP>"
    if len(found) == 36 and found[8] == "-":
        return "<UUID>"
    if "-" in found or found.count(":") == 2:
        return "<TIME>"
    if ":" in found:
        return "<MAC>" if len(found) == 17 and found.count(":") == 5 else "<IP>"
    return "<HEX>" if found[:2] == "0x" or _is_hash(found) else "<NUM>"


_is_hash = re.compile(r"[0-9a-fA-F]{8,}").fullmatch


class TemplateMiner:
    """Numbers the templates of log lines; ids are stable while the template is known.

    Parameters
    ----------
    similarity
        Share of equal words from which a line belongs to a template.
    depth
        Depth of the parse tree.
    max_templates
        Templates kept; the least recently seen are forgotten.
    cache
        Masked lines remembered in front of the tree.

    Examples
    --------
    >>> miner = TemplateMiner()
    >>> [miner.add(line) for line in ("job 1 done in 3s", "job 2 done in 14s", "disk sda failed")]
    [1, 1, 2]
    >>> miner.template(1)
    'job <NUM> done in <NUM>'

    References
    ----------
    He, Zhu, Zheng and Lyu 2017, Drain: an online log parsing approach with fixed depth tree, ICWS.
    """

    def __init__(self, similarity: float = 0.4, depth: int = 4, max_templates: int = 2000, cache: int = 20_000) -> None:
        from drain3.drain import Drain  # costs 50 ms: only where there are lines to mine

        self.similarity = similarity
        self.depth = depth
        self.max_templates = max_templates
        self.cache = cache
        self._drain: Any = Drain(depth=depth, sim_th=similarity, max_clusters=max_templates)
        self._known: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Return the id of the line's template, learning it."""
        masked = mask(text)
        known = self._known.get(masked)
        if known is not None:
            return known
        number = int(self._drain.add_log_message(masked)[0].cluster_id)
        if len(self._known) >= self.cache:
            self._known.clear()
        self._known[masked] = number
        return number

    def template(self, number: int) -> str:
        """Return the template's text, empty where it was forgotten."""
        cluster = self._drain.id_to_cluster.get(number)
        return str(cluster.get_template()) if cluster is not None else ""


@dataclass(frozen=True, slots=True)
class LogFinding:
    """A template of one source that is new or bursts in the window.

    `usual` is its records per second before (0 for a new one), `example` its first line in the window.
    """

    source: str
    unit: str
    template: str
    shape: Literal["new", "burst"]
    onset: float
    count: int
    usual: float
    p: float
    example: str


def findings(
    records: Sequence[LogRecord], start: float, end: float, miner: TemplateMiner | None = None, most_records: int = 8000
) -> list[LogFinding]:
    """Compare the records of ``[start, end]`` with those before, source by source; the last `most_records` are read.

    Records need not be in order. Times are Unix seconds.
    """
    by_source: dict[str, list[LogRecord]] = {}
    for record in records[-most_records:]:
        if record.time <= end:
            by_source.setdefault(record.source, []).append(record)
    out: list[LogFinding] = []
    for source, lines in by_source.items():
        oldest = min(line.time for line in lines)
        if end > start and start - oldest >= FEWEST_WINDOWS * (end - start):
            miner = miner or TemplateMiner()
            out += _compare(source, sorted(lines, key=lambda line: line.time), start, end, miner)
    return out


def _compare(source: str, lines: list[LogRecord], start: float, end: float, miner: TemplateMiner) -> list[LogFinding]:
    times = np.array([line.time for line in lines])
    numbers = np.array([miner.add(line.text) for line in lines])
    here = int(np.searchsorted(times, start))
    if here == len(lines):
        return []
    templates, first = np.unique(numbers, return_index=True)
    new = first >= here
    length = end - start
    span = start - times[0]
    p_new = 1.0
    if new.any():
        # the later half of the experience: a boot brings all its templates at once
        fresh_before = np.count_nonzero((times[first] >= start - span / 2) & ~new)
        p_new = count_tail(int(new.sum()), fresh_before + 0.5, length / (span / 2))
    counts = np.bincount(np.searchsorted(templates, numbers[here:]), minlength=len(templates))
    usual, p_burst = _bursts(times[:here], np.searchsorted(templates, numbers[:here]), counts, start, length)
    found = []
    for slot in np.flatnonzero(counts):
        p = p_new if new[slot] else float(p_burst[slot])
        if p < 1.0:
            at = int(first[slot]) if new[slot] else here + int(np.argmax(numbers[here:] == templates[slot]))
            found.append(
                LogFinding(
                    source, lines[at].unit, miner.template(int(templates[slot])), "new" if new[slot] else "burst",
                    lines[at].time, int(counts[slot]), 0.0 if new[slot] else float(usual[slot]), p, lines[at].text,
                )
            )  # fmt: skip
    return found


def _bursts(
    times: FloatArray, slots: IntArray, counts: IntArray, start: float, length: float
) -> tuple[FloatArray, FloatArray]:
    """Return each template's usual rate per second and the probability of as many as `counts` in one window."""
    windows = int(min((start - times[0]) // length, MOST_WINDOWS)) if len(times) else 0
    size = len(counts)
    p = np.ones(size)
    if windows < FEWEST_WINDOWS:
        return np.zeros(size), p
    back = ((start - times) // length).astype(np.int64)
    recent = back < windows
    cells = np.bincount(slots[recent] * windows + back[recent], minlength=size * windows).reshape(size, windows)
    mean, scatter = cells.mean(axis=1), cells.var(axis=1)
    for slot in np.flatnonzero((counts >= FEWEST_IN_BURST) & (counts > cells.max(axis=1))):
        shape = cells[slot].sum() + 0.5
        expected = shape / windows
        if scatter[slot] > mean[slot] > 0:
            shape = min(shape, mean[slot] ** 2 / (scatter[slot] - mean[slot]))
        p[slot] = count_tail(int(counts[slot]), shape, expected / shape)
    return mean / length, p
