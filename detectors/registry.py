"""The detectors this program brings, and those that other distributions add through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points

from detectors.base import Detector

Factory = Callable[[], Detector]

GROUP = "wardround.detectors"

# name as it stands in an anomaly's `detectors` -> "module:class"; every class can be built without arguments
BUILTIN: dict[str, str] = {
    "robust": "detectors.robust:RobustLevel",
    "extreme": "detectors.extreme:ExtremeTail",
    "changepoint": "detectors.changepoint:ChangePoint",
    "trend": "detectors.trend:Trend",
}


def factories() -> Iterator[tuple[str, Factory]]:
    """Yield ``(name, factory)`` of every known detector, built-ins first."""
    for name, target in BUILTIN.items():
        module, _, attribute = target.partition(":")
        yield name, getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP):
        if entry.name not in BUILTIN:
            yield entry.name, entry.load()
