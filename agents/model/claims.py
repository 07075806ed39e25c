"""Which sentences of a model reach the report: those that say nothing beyond the evidence they cite.

A sentence must cite evidence that it was shown, tell only figures that stand there, name only faults it was shown,
contain nothing that could be run or opened, and be made mostly of words that its evidence uses. It cannot know whether
a sentence of grounded words draws the right conclusion: probabilities and order do not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agents.model.answers import Claim
from agents.state import Sentence
from agents.tools.base import plain
from rca.ground import grounded
from wardround.models.diagnosis import Evidence

SHORTEST, LONGEST = 12, 300
# Share of a sentence's longer words that its evidence must use.
SHARED_WORDS = 0.6

_RUNNABLE = re.compile(r"https?://|www\.|`|\$\(|\$\{|&&|\|\||[|<>{}]|\bsudo\b|\brm -|\bcurl\b|\bwget\b", re.IGNORECASE)
_LABELS = re.compile(r"\s*[\[(]\s*(?:[ect]\d+\s*[,;]?\s*)+[\])]")
_FAULT = re.compile(r"\b[a-z]+\.[a-z]+(?:_[a-z]+)*\b")
_WORD = re.compile(r"[a-z]{4,}")
# Words of reasoning that no evidence needs to use.
_JOINING = frozenset(
    re.findall(
        r"\w+",
        "this that these those with from into over under while because which their there than more most less very "
        "have been being does cause causes caused causing root likely evidence shows shown show indicates indicating "
        "suggests suggesting means meaning therefore thus hence also only both each other since during about against "
        "supports supported support confirms high higher lower large well within between without time times",
    )
)


def checked(
    claims: Sequence[Claim], labels: Mapping[str, Evidence], faults: frozenset[str], names: str
) -> tuple[list[Sentence], int]:
    """Return the sentences that hold, and how many were dropped.

    `labels` maps what the model was shown to its evidence; `faults` are the fault ids and `names` the culprits' names
    it was shown.
    """
    kept: list[Sentence] = []
    for claim in claims:
        text = _LABELS.sub("", plain(claim.sentence)).strip()
        cited = [labels[label] for label in dict.fromkeys(claim.evidence) if label in labels]
        if cited and len(cited) == len(set(claim.evidence)) and _holds(text, cited, faults, names):
            kept.append(Sentence(text=text, evidence=[evidence.id for evidence in cited]))
    return kept, len(claims) - len(kept)


def _holds(text: str, cited: list[Evidence], faults: frozenset[str], names: str) -> bool:
    if not SHORTEST <= len(text) <= LONGEST or _RUNNABLE.search(text):
        return False
    if any(found not in faults for found in _FAULT.findall(text.lower())):
        return False
    return grounded(text, cited) and _shares_words(text, cited, faults, names)


def _shares_words(text: str, cited: list[Evidence], faults: frozenset[str], names: str) -> bool:
    words = [word for word in _WORD.findall(text.lower()) if word not in _JOINING]
    if not words:
        return True
    said = " ".join(f"{e.statement} {e.feature} {' '.join(e.values)} {' '.join(e.baseline)}" for e in cited)
    known = _stems(f"{said} {names} {' '.join(faults)}")
    return sum(word[:5] in known for word in words) >= SHARED_WORDS * len(words)


def _stems(text: str) -> set[str]:
    """Return the beginnings of words: ``throttled`` and ``throttling`` are one."""
    return {word[:5] for word in _WORD.findall(text.lower().replace("_", " "))}
