"""Public detection data and event scores: what an alarm is worth when no label chose the threshold.

An event is a labelled run; it is found when an alarm overlaps it or the `tolerance` ticks after it. An alarm is right
when it overlaps some event, give or take the tolerance. False alarms are counted per day of unlabelled ticks. These
are not the point-adjusted scores of the literature, which random scores win.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors.fusion import AlarmPolicy
from wardround.models.series import FloatArray

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where hosts of one kind lie and how they are sampled: `tick` s, `tolerance` and `cooldown` in ticks."""

    name: str
    tick: float
    tolerance: int
    cooldown: int


SETS = (DataSet("asd", 300.0, 2, 4), DataSet("smd", 60.0, 5, 10))


@dataclass(frozen=True, slots=True)
class HostTrace:
    """One host: `train` and `test` ``[T, S]``, `label` ``[T]`` of the test half."""

    name: str
    train: FloatArray
    test: FloatArray
    label: NDArray[np.bool_]


def data_folder() -> Path:
    """Return the folder of public data: ``WARDROUND_DATA``, else ``../shared/data`` beside the project."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return Path(os.environ.get("WARDROUND_DATA") or beside)


def hosts(data: DataSet) -> Iterator[HostTrace]:
    for path in sorted((data_folder() / data.name).glob("*.npz")):
        with np.load(path) as file:
            yield HostTrace(
                path.stem, file["train"].astype(float), file["test"].astype(float), file["label"].astype(bool)
            )


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return ``[start, end)`` of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def alarms(surprise: FloatArray, first: int, data: DataSet, per_day: float) -> list[tuple[int, int]]:
    """Return the alarms ``[start, end)`` from tick `first` on; the policy runs from the start, as it would live."""
    policy = AlarmPolicy(per_day, data.tick, cooldown=data.cooldown * data.tick)
    out: list[tuple[int, int]] = []
    for tick, value in enumerate(surprise.tolist()):
        said = policy.update(value, tick * data.tick)
        at = tick - first
        if said == "begins":
            out.append((at, at + 1))
        elif said == "goes on" and out:
            out[-1] = (out[-1][0], at + 1)
    return [(max(start, 0), end) for start, end in out if end > 0]


@dataclass
class EventScore:
    """Counts pooled over hosts."""

    events: int = 0
    found: int = 0
    raised: int = 0
    right: int = 0
    normal_days: float = 0.0
    delays: list[int] | None = None

    def add(self, trace: HostTrace, raised: list[tuple[int, int]], data: DataSet) -> None:
        events, slack = runs(trace.label), data.tolerance
        self.delays = self.delays if self.delays is not None else []
        for start, end in events:
            hits = [a for a, b in raised if a < end + slack and b > start]
            self.found += bool(hits)
            if hits:
                self.delays.append(max(min(hits) - start, 0))
        self.right += sum(any(a < end + slack and b > start - slack for start, end in events) for a, b in raised)
        self.events += len(events)
        self.raised += len(raised)
        self.normal_days += float((~trace.label).sum()) * data.tick / DAY

    def row(self) -> list[str]:
        precision = self.right / self.raised if self.raised else 0.0
        recall = self.found / self.events if self.events else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        false = (self.raised - self.right) / self.normal_days
        delay = f"{np.median(self.delays):.0f}" if self.delays else "-"
        return [f"{precision:.2f}", f"{recall:.2f}", f"{f1:.2f}", f"{false:.3f}", delay]
