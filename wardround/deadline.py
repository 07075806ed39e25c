"""Ends what takes too long, pure Python and system calls alike: an alarm that raises an error in the main thread.

Loops in C that run no Python heed it only when they return. A process has one such alarm: blocks do not nest.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def at_most(seconds: float, error: Callable[[], Exception]) -> Iterator[None]:
    """Raise what `error` makes once `seconds` have passed inside the block.

    :raises ValueError: not in the main thread
    """

    def expire(number: int, frame: FrameType | None) -> None:
        raise error()

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
