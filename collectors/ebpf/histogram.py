"""Decodes the log-linear histograms that the programs fill: four buckets to an octave, so a value is known to ±12 %.

Mirrors `bucket_of` in ``programs/sched.c``: values below 64 ns fall into buckets 0 to 3; bucket ``4(p-1)+q`` holds
those with highest bit ``p+4`` and next two bits ``q``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BUCKETS = 192
OCTAVES = 40


def log_linear_edges() -> NDArray[np.float64]:
    """Return the ``[BUCKETS + 1]`` lower edges in seconds, the last one being the upper end."""
    index = np.arange(BUCKETS + 1)
    power, quarter = index // 4 + 1, index % 4
    edges = np.where(index < 4, index, (2.0 ** np.maximum(power, 2)) * (1 + quarter / 4))
    return np.asarray(edges * 16e-9)


def octave_edges() -> NDArray[np.float64]:
    """Return the ``[OCTAVES + 1]`` lower edges in seconds of ``block.c``'s histogram: bucket b ends at 2^b µs·1.024."""
    edges = np.concatenate([[0.0], 2.0 ** np.arange(OCTAVES)])
    return np.asarray(edges * 1.024e-6)


def quantiles(counts: NDArray[np.number], edges: NDArray[np.float64], wanted: tuple[float, ...]) -> list[float]:
    """Estimate quantiles by interpolation inside buckets; 1 is the upper edge of the highest used. NaN if empty."""
    cumulative = np.cumsum(counts, dtype=np.float64)
    total = cumulative[-1] if len(cumulative) else 0.0
    if total <= 0:
        return [float("nan")] * len(wanted)
    out = []
    for q in wanted:
        bucket = min(int(np.searchsorted(cumulative, q * total)), len(counts) - 1)
        before = cumulative[bucket] - counts[bucket]
        share = (q * total - before) / counts[bucket] if counts[bucket] else 1.0
        out.append(float(edges[bucket] + share * (edges[bucket + 1] - edges[bucket])))
    return out
