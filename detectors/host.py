"""The host's one number: how unusual is this host now, by its own past, and which series make it so.

Two levels of tail probabilities. For every series: the score of a detector, made a surprise by the series' own past.
For the host: a mean of its three most surprising series, made a surprise by the host's own past, so that a host
whose series often jump together is not alarmed by it.

Cannot know which series matter: the caller gives `least`, the smallest change that does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.base import Detector
from detectors.extreme import ExtremeTail
from detectors.fusion import host_value
from detectors.robust import RobustLevel
from wardround.models.series import FloatArray, IntArray


class HostScore:
    """Streaming: ``[S]`` levels of a tick in, ``[S]`` surprises and the host's own surprise out."""

    def __init__(self, detector: Detector | None = None, tail: ExtremeTail | None = None) -> None:
        self.detector: Detector = detector or RobustLevel()
        self._tail = tail or ExtremeTail()
        self._host = self._tail.clone()

    def update(self, levels: FloatArray, immaterial: NDArray[np.bool_] | None = None) -> tuple[FloatArray, float]:
        """Return surprises ``[S]`` (NaN without an opinion) and the host's; `immaterial` series count as usual."""
        surprises = self._tail.update(self.detector.update(levels))
        if immaterial is not None:
            surprises[immaterial & ~np.isnan(surprises)] = 0.0
        return surprises, float(self._host.update(np.array([host_value(surprises)]))[0])

    def forget(self, columns: IntArray) -> None:
        """Start the columns anew: their series is gone."""
        self.detector.forget(columns)
        self._tail.forget(columns)
