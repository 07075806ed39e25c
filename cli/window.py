"""Observes this host for one window: the progress line, Ctrl-C, the time limit; heavy imports hide behind the wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from cli.interrupt import stop_on_interrupt
from cli.progress import Progress
from wardround.deadline import at_most
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from collectors.base import Reading
    from wardround.models.observation import Observation
    from wardround.settings import Settings

MIN_TICKS = 3
RESERVE = 4.0  # seconds of --timeout that are kept for judging and printing
_JUDGING = ("agents.round", "cli.render.terminal", "wardround.store.history")


@dataclass
class Watcher:
    """Shows on the progress line what each tick brings."""

    progress: Progress
    ticks: int = 0

    def __call__(self, elapsed: float, reading: Reading) -> None:
        self.ticks += 1
        self.progress.doing = f"observing this host ({len(reading.frame.ids)} values a tick)"
        for event in reading.events:
            if event.kind in ("oom_kill", "fatal_signal"):
                self.progress.found = f"{event.kind.replace('_', ' ')}: {event.comm or 'a process'}"


def observe_host(seconds: float, settings: Settings, progress: Progress, since: float | None = None) -> Observation:
    """Return what was seen in `seconds`, or until the first Ctrl-C if that was at least `MIN_TICKS` ticks.

    `since` (Unix seconds): only what was before counts as usual, and older logs and events are left out.

    :raises KeyboardInterrupt: stopped before anything could be told
    """
    from collectors.base import Roots
    from collectors.baseline import baseline
    from collectors.lock import daemons
    from collectors.observe import observe

    _come_first()
    watcher = Watcher(progress)
    usual = partial(baseline, settings=settings, until=since)
    progress.doing = "starting the collectors"
    progress.deadline = time.monotonic() + seconds
    threading.Thread(target=_import_ahead, name="imports", daemon=True).start()
    with stop_on_interrupt() as stop:
        observation = observe(
            seconds,
            on_tick=watcher,
            roots=Roots.of(settings),
            baseline=usual,
            stop=stop,
            own=daemons(settings.state_dir),
        )
        stopped = stop.is_set()
    progress.deadline = None
    ticks = len(observation.window.times)
    if ticks < MIN_TICKS and stopped:
        raise KeyboardInterrupt
    if stopped:
        progress.note(f"interrupted: judging the {ticks} ticks seen so far (Ctrl-C again to leave)")
    return observation if since is None else _not_before(observation, since)


def _come_first() -> None:
    """Raise our own priority where permitted: on a host without idle CPU the doctor must not queue with the sick."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def _not_before(observation: Observation, since: float) -> Observation:
    logs = tuple(each for each in observation.logs if each.time >= since)
    events = tuple(each for each in observation.events if each.time >= since)
    return replace(observation, logs=logs, events=events)


def _import_ahead() -> None:
    """Load what judging needs while the window runs; what fails to load fails again, aloud, where it is used."""
    for name in _JUDGING:
        try:
            import_module(name)
        except ImportError:
            return


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise a WardroundError in the main thread once `seconds` have passed inside the block."""
    if seconds is None:
        yield
        return
    error = WardroundError(f"not done within --timeout {seconds:g} s", do="allow more time or a shorter --window")
    with at_most(seconds, lambda: error):
        yield
