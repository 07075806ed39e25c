"""The live line: only on a terminal, never wider than it, gone at the end."""

from __future__ import annotations

import io
import time

from cli.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_nobody_looks():
    out = io.StringIO()
    with Progress(True, out) as progress:
        progress.doing = "observing"
        time.sleep(0.7)
    assert out.getvalue() == ""


def test_nothing_is_drawn_when_quiet():
    out = Terminal()
    with Progress(False, out):
        time.sleep(0.7)
    assert out.getvalue() == ""


def test_a_terminal_sees_what_is_done_and_the_line_is_cleared_at_the_end():
    out = Terminal()
    with Progress(True, out) as progress:
        progress.doing = "observing this host"
        time.sleep(0.7)
    assert "observing this host" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[2K")


def test_the_line_is_cut_to_the_width_and_tells_seconds_and_findings():
    progress = Progress(False, io.StringIO())
    progress.doing, progress.deadline, progress.found = "observing", time.monotonic() + 12.4, "oom kill: db"
    assert progress.line(200) == "observing, 12 s left · oom kill: db"
    assert len(progress.line(20)) == 20


def test_a_terminal_that_goes_away_does_not_matter():
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("gone")

    with Progress(True, Gone()) as progress:
        time.sleep(0.7)
        progress.note("still here")
