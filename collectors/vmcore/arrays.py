"""Operations on whole arrays that several readers share."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSOUND = np.iinfo(np.int32).max
_BLOCK = 1 << 18


def chain(size: int, ends: Callable[[int, int], NDArray[np.int32]]) -> tuple[array[int], int]:
    """Return (where each record begins, where the last ends) of records that lie behind one another from place 0.

    `ends(first, last)` tells for every place from `first` to before `last` where a record would end that began there,
    `UNSOUND` where none can; all at once, so that the walk itself is one look-up a record. It stops at `size`, or where
    an unsound record begins. A record must end behind its begin.
    """
    starts = array("q")
    at = 0
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        if at >= last:
            continue
        end = memoryview(ends(first, last))  # type: ignore[arg-type]  # an array is one
        while at < last:
            starts.append(at)
            at = end[at - first]
        if at == UNSOUND:
            return starts, starts.pop()
    return starts, at


def among(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which of `values` are in the sorted `wanted`. NumPy's own sorts the values, and loads 20 ms of code."""
    if not len(wanted):
        return np.zeros(values.shape, np.bool_)
    at = np.searchsorted(wanted, values)
    at[at == len(wanted)] = 0
    found: NDArray[np.bool_] = wanted[at] == values
    return found
