"""The contract of a detector. `detectors.registry` lists them; the conformance suite and the benchmarks walk that.

A detector sees numbers only: one row of S values a tick. What the columns mean, and whether a deviation matters to
an operator, is decided elsewhere (`detectors.material`, `detectors.scan`). It cannot know why a value is missing:
NaN is a gap, never a value, and leaves the state of its column alone.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wardround.models.series import FloatArray, IntArray

Arrays = dict[str, NDArray[Any]]


class Detector(Protocol):
    """One algorithm over all series at once.

    Hyper-parameters are typed constructor arguments and stay as attributes of the same name; what is learned is
    private. `update` takes the ``[S]`` values of a tick and returns ``[S]`` scores >= 0: 0 is usual, larger is
    more unusual, NaN is no opinion (yet). S may grow between ticks: new columns start fresh on the right.
    """

    def fit(self, history: FloatArray) -> None: ...
    def update(self, values: FloatArray) -> FloatArray: ...
    def forget(self, columns: IntArray) -> None: ...
    def state(self) -> Arrays: ...
    def restore(self, state: Arrays) -> None: ...
    def clone(self) -> Self: ...


class ColumnDetector(ABC):
    """What detectors share that keep, for every column, a fixed number of values: growth, state, clone.

    A subclass stores its hyper-parameters, calls `_reset`, names its state in `_blank` and scores in `_update`.
    """

    _state: Arrays

    @abstractmethod
    def _blank(self, size: int) -> Arrays:
        """Return the state of `size` columns that have seen nothing; the last axis of every array is the column."""

    @abstractmethod
    def _update(self, values: FloatArray) -> FloatArray: ...

    def _reset(self) -> None:
        self._state = self._blank(0)

    @property
    def size(self) -> int:
        """The number of columns seen so far."""
        return int(next(iter(self._state.values())).shape[-1])

    def fit(self, history: FloatArray) -> None:
        """Learn from ``[T, S]`` rows in time order, anew."""
        self._reset()
        for row in history:
            self.update(row)

    def update(self, values: FloatArray) -> FloatArray:
        """Score one tick ``[S]``, then learn from it. :raises ValueError: when columns went missing"""
        values = np.asarray(values, dtype=np.float64)
        missing = len(values) - self.size
        if missing < 0:
            raise ValueError(f"{self.size} columns are known, {len(values)} were given; give NaN for a silent one")
        if missing:
            fresh = self._blank(missing)
            self._state = {key: np.concatenate([old, fresh[key]], axis=-1) for key, old in self._state.items()}
        return self._update(np.where(np.isfinite(values), values, np.nan))

    def forget(self, columns: IntArray) -> None:
        """Start the columns anew: their series is gone and the place is used again."""
        fresh = self._blank(len(columns))
        for key, array in self._state.items():
            array[..., columns] = fresh[key]

    def state(self) -> Arrays:
        """Return a copy of what was learned, as plain arrays."""
        return {key: array.copy() for key, array in self._state.items()}

    def restore(self, state: Arrays) -> None:
        """Go on from a `state` of the same hyper-parameters. :raises ValueError: where it is of another detector"""
        blank = self._blank(0)
        if blank.keys() != state.keys() or any(
            blank[key].shape[:-1] != state[key].shape[:-1] or blank[key].dtype != state[key].dtype for key in blank
        ):
            raise ValueError(f"this is no state of {self!r}")
        if len({array.shape[-1] for array in state.values()}) > 1:
            raise ValueError("the state's arrays differ in their number of columns")
        self._state = {key: state[key].copy() for key in blank}

    def parameters(self) -> dict[str, Any]:
        """Return the hyper-parameters as they were given."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def clone(self) -> Self:
        """Return a detector with the same hyper-parameters that has learned nothing."""
        return type(self)(**self.parameters())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"


class WindowDetector(ColumnDetector):
    """A detector that looks at the last `window` ticks: a ring ``[window, S]``, scored as a block."""

    window: int

    @abstractmethod
    def _score(self, block: FloatArray) -> FloatArray:
        """Return ``[S]`` scores of a ``[window, S]`` block, oldest row first, NaN where a value is missing."""

    def _blank(self, size: int) -> Arrays:
        return {"ring": np.full((self.window, size), np.nan)}

    def _update(self, values: FloatArray) -> FloatArray:
        ring = self._state["ring"]
        ring[:-1] = ring[1:]
        ring[-1] = values
        return self._score(ring)
