"""What the detectors found unusual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wardround.models.series import Series

Shape = Literal["spike", "shift", "trend", "saturation", "error", "burst", "new"]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One series that left its usual range, or one log template that is new or bursts.

    `onset` Unix seconds; `p` the calibrated tail probability (small is surprising); `level` now and `usual` in the
    series' unit (`usual` NaN where no baseline exists); `detectors` are the names of those that agree.
    """

    series: Series
    onset: float
    p: float
    level: float
    usual: float
    shape: Shape
    detectors: tuple[str, ...]
    detail: str = ""
