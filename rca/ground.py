"""The grounding check: a sentence may tell only numbers that stand in the evidence it cites.

Numbers are compared as printed: 0.712 may be told as 0.71, 71 % or 71.2 %, and 20000 as 20,000 or 20 thousand
million-fold units (kB to TiB, ms, µs). Digits inside names (pids, devices, paths, addresses) that the evidence
itself names are names, not figures. It cannot know whether a number is used for the right thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from wardround.models.diagnosis import Evidence

_NUMBER = re.compile(r"(?<![\w.:/-])[+-]?\d[\d,]*(?:\.\d+)?(?![\w:/]|\.\d|-\w)")
# What a value may be multiplied by on its way into a sentence: percent, decimal and binary sizes, short times.
_SCALES = (
    1.0,
    100.0,
    1e3,
    1e6,
    1e9,
    1e-3,
    1e-6,
    1e-9,
    1 / 1024,
    1 / 1024**2,
    1 / 1024**3,
    1 / 1024**4,
    1 / 60,
    1 / 3600,
)
# Counting words up to this need no evidence: "two causes", "1 of".
_TRIVIAL = {0.0, 1.0}


def numbers(text: str) -> list[str]:
    """Return the figures of a sentence as printed, names such as ``sda1`` or ``10.0.0.1:80`` left out."""
    return [found.group().replace(",", "") for found in _NUMBER.finditer(text)]


def _tells(printed: str, value: float) -> bool:
    """Whether a printed figure is this value at some scale, to the precision it is printed with."""
    decimals = len(printed.partition(".")[2])
    shown = abs(float(printed))
    return any(abs(shown - abs(value) * scale) <= 0.5000001 * 10**-decimals for scale in _SCALES)


def ungrounded(sentence: str, evidence: Iterable[Evidence]) -> list[str]:
    """Return the figures of a sentence that none of the evidence holds."""
    cited = list(evidence)
    values = [float(v) for e in cited for v in (*e.values.values(), *e.baseline.values()) if v is not None]
    names = " ".join(f"{e.statement} {e.reproduce}" for e in cited)
    named = set(re.findall(r"\d+", " ".join(re.findall(r"\(pid \d+\)|\bpid \d+|[\w./:-]*[A-Za-z/][\w./:-]*", names))))
    return [
        printed
        for printed in numbers(sentence)
        if float(printed) not in _TRIVIAL
        and printed.lstrip("+-") not in named
        and not any(_tells(printed, value) for value in values)
    ]


def grounded(sentence: str, evidence: Iterable[Evidence]) -> bool:
    """Whether every figure of a sentence stands in the evidence."""
    return not ungrounded(sentence, evidence)
