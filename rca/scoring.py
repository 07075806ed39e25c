"""Bayesian scoring: log-odds from answers, and how much a question not yet asked is expected to tell.

Each (fault, culprit) is judged present or absent on its own, since independent faults are two entries. Answers
are taken as independent given the fault; curves are kept modest because they are not quite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# Nothing read from outside a system is certain: probabilities stay inside these.
FLOOR, CEILING = 0.002, 0.985


def logit(p: float) -> float:
    return math.log(p / (1.0 - p))


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(min(x, 50.0), -50.0)))


def posterior(prior: float, ratios: Iterable[float]) -> float:
    """Return the probability of a fault from its prior and the log-likelihood ratios of the answers.

    >>> round(posterior(0.5, [0.0]), 2)
    0.5
    """
    return min(max(logistic(logit(prior) + sum(ratios)), FLOOR), CEILING)


def entropy(p: float) -> float:
    """Entropy of a yes-or-no question, bits."""
    if p <= 0.0 or p >= 1.0:
        return 0.0
    return -p * math.log2(p) - (1.0 - p) * math.log2(1.0 - p)


def expected_gain(p: float, positive_if_present: float, positive_if_absent: float) -> float:
    """Return the bits by which a two-outcome test is expected to lower the entropy of a hypothesis.

    >>> expected_gain(0.5, 1.0, 0.0)
    1.0
    """
    positive = p * positive_if_present + (1.0 - p) * positive_if_absent
    after = 0.0
    if positive > 0.0:
        after += positive * entropy(p * positive_if_present / positive)
    if positive < 1.0:
        after += (1.0 - positive) * entropy(p * (1.0 - positive_if_present) / (1.0 - positive))
    return entropy(p) - after
