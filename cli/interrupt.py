"""Ctrl-C and SIGTERM while the host is observed.

The first Ctrl-C ends the window early, so that what was seen is still diagnosed; the second one interrupts. SIGTERM
unwinds the program, so that probes are detached and files are closed, and exits with 143.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; outside the block Ctrl-C raises KeyboardInterrupt as usual."""
    stop = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def clean_termination() -> Iterator[None]:
    """Turn SIGTERM into an orderly exit inside the block."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
