"""The live line on standard error: what is being looked at, seconds left, first findings.

Drawn only where standard error is a terminal, by one thread at two lines a second; nothing is written elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

_CLEAR = "\r\x1b[2K"


class Progress:
    """``with Progress(enabled) as progress``: set `doing`, `deadline` (monotonic s) and `found`; it draws them."""

    def __init__(self, enabled: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._enabled = enabled and self._stream.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self.doing = "starting"
        self.deadline: float | None = None
        self.found = ""

    def __enter__(self) -> Self:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            self._done.set()
            self._thread.join()
            self._write(_CLEAR)

    def note(self, sentence: str) -> None:
        """Write one lasting line above the live one, on terminals and in logs alike."""
        self._write(f"{_CLEAR if self._enabled else ''}{sentence}\n")

    def line(self, width: int) -> str:
        """Return the live line, cut to `width` columns."""
        left = "" if self.deadline is None else f", {max(0.0, self.deadline - time.monotonic()):.0f} s left"
        found = f" · {self.found}" if self.found else ""
        text = f"{self.doing}{left}{found}"
        return text if len(text) <= width else text[: max(0, width - 1)] + "…"

    def _draw(self) -> None:
        while not self._done.wait(0.5):
            self._write(_CLEAR + self.line(shutil.get_terminal_size().columns - 1))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._done.set()  # the terminal is gone: the result matters, the line does not
