"""`diagnose watch`: keeps collecting, so that the one-shot command knows what is usual on this host.

Every second a tick of all collectors goes into the ring, every ten seconds a step into the history. Ticks that the
host did not let us take are counted and told. No model, no Parquet library, no data frames in this process.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from cli import options as opt

if TYPE_CHECKING:
    from cli.service import Notifier, StopSignal
    from collectors.base import Reading
    from collectors.history import Recorder
    from collectors.ring import Ring
    from collectors.sampler import Sampler
    from wardround.models.series import Catalogue
    from wardround.settings import Settings

INTERVAL = 1.0
SETTLED = 5  # ticks after which start-up's objects are final
LIVE = 10.0  # seconds without a value after which a series no longer counts as one
UPKEEP = 60.0  # seconds between garbage collections and status lines
# Names of vanished series add up (about 0.5 kB each): at so many, or twice those of the first tick where that is more,
# sampler and catalogue begin anew.
MOST_SERIES = 30_000


class Follower(Protocol):
    """Wants each reading, in the loop and so within a tick; goes along when the catalogue is replaced."""

    def follow(self, reading: Reading) -> None: ...
    def move_to(self, catalogue: Catalogue) -> None: ...


def watch(
    once: Annotated[bool, typer.Option("--once", help="Take one tick, print what was read, and leave.")] = False,
    duration: Annotated[
        float | None, typer.Option("--duration", min=1, metavar="SECONDS", help="Leave after this long.")
    ] = None,
    detect: Annotated[bool, typer.Option("--detect/--no-detect", help="Log what becomes unusual.")] = True,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Watch this host until stopped, and keep a history of what is usual.

    Runs in the foreground, as a service under systemd (deploy/systemd/wardround-watch.service). The history lies in the
    setting `state_dir`; `diagnose` reads it as its baseline.
    """
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # before NumPy is loaded: its idle threads only cost memory
    import structlog

    from cli import service
    from collectors.lock import hold
    from wardround.errors import StateError
    from wardround.logging import configure
    from wardround.settings import load

    service.one_arena()
    service.allow_files()
    configure(verbose + 1)  # nobody reads over its shoulder: warnings too
    log = structlog.get_logger(__name__)
    loaded = load()
    for note in loaded.notes:
        log.warning("setting_ignored", why=note)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(loaded.settings.state_dir))
        except StateError as error:
            log.warning("watching_without_history", what=error.what, why=error.why)
        stop = service.StopSignal()
        stack.callback(stop.close)
        daemon = Daemon(loaded.settings)
        if detect:
            daemon.followers.append(Detection(daemon.sampler.catalogue, loaded.settings.false_alarms))
        daemon.run(stop, service.Notifier(), 0.0 if once else duration)
    typer.echo(daemon.summary())


class Detection:
    """Logs anomalies as they begin; `per_day` is the budget of false alarms."""

    def __init__(self, catalogue: Catalogue, per_day: float) -> None:
        import structlog

        from detectors.online import Online

        self._log = structlog.get_logger(__name__)
        self._online = Online(catalogue, per_day=per_day, tick=INTERVAL, own_pids=(os.getpid(),))

    def follow(self, reading: Reading) -> None:
        for found in self._online.update(reading.frame):
            self._log.warning(
                "anomaly",
                series=str(found.series),
                onset=found.onset,
                p=found.p,
                level=found.level,
                usual=found.usual,
                shape=found.shape,
                detail=found.detail,
            )

    def move_to(self, catalogue: Catalogue) -> None:
        self._online.move_to(catalogue)


class Daemon:
    """The loop: sampler → ring → history, and whoever else wants each reading (`followers`)."""

    def __init__(self, settings: Settings, followers: Sequence[Follower] = ()) -> None:
        from collectors.base import Roots
        from collectors.facts import read_host
        from collectors.history import Recorder
        from collectors.ring import Ring
        from collectors.sampler import Sampler
        from wardround.models.series import Catalogue

        catalogue = Catalogue()
        self.followers = list(followers)
        self._roots = Roots.of(settings)
        self.sampler: Sampler = Sampler(catalogue, self._roots, interval=INTERVAL)
        self.ring: Ring = Ring(catalogue, ticks=int(settings.ring / INTERVAL))
        history = settings.history
        self.history: Recorder = Recorder(
            self.ring,
            settings.state_dir / "history",
            boot_id=read_host().boot_id,
            step=history.step,
            segment=history.segment,
            hours=history.hours,
            max_bytes=history.max_bytes,
        )
        self.ticks = 0
        self.missed = 0
        self._upkeep_due = 0.0
        self._most_series = MOST_SERIES

    def run(self, stop: StopSignal, notifier: Notifier, seconds: float | None = None) -> None:
        """Tick once a second until stopped or `seconds` have passed; ticks that come too late are counted, left out."""
        self.history.start()
        self.sampler.start()
        began = time.monotonic()
        slot, delay = 0, 0.0
        try:
            while True:
                self._tick(delay, everything=slot == 0)
                if slot == 0:
                    notifier.send("READY=1", f"STATUS={self.summary()}")
                notifier.alive()
                self._upkeep(notifier)
                reached = int((time.monotonic() - began) / INTERVAL)
                self.missed += max(0, reached - slot - 1)
                slot = max(slot + 1, reached)
                due = began + slot * INTERVAL
                if (seconds is not None and due > began + seconds) or stop.sleep(due - time.monotonic()):
                    return
                delay = max(0.0, time.monotonic() - due)
        finally:
            notifier.send("STOPPING=1")
            self.sampler.stop()
            self.history.close()

    def _tick(self, delay: float, everything: bool) -> None:
        reading = self.sampler.tick(delay=delay, everything=everything)
        self.ring.append(reading.frame)
        self.history.tick(reading.frame.clock)
        for follower in self.followers:
            follower.follow(reading)
        self.ticks += 1
        if self.ticks == 1:
            self._most_series = max(MOST_SERIES, 2 * len(self.sampler.catalogue))
        if self.ticks == SETTLED:
            self._settle()

    def _settle(self) -> None:
        """Put what start-up made out of the collector's sight, and collect on our own schedule from here on."""
        from cli.service import give_back

        gc.collect()
        gc.freeze()
        gc.disable()
        give_back()

    def _upkeep(self, notifier: Notifier) -> None:
        now = time.monotonic()
        if now < self._upkeep_due:
            return
        self._upkeep_due = now + UPKEEP
        if len(self.sampler.catalogue) > self._most_series:
            self._begin_anew()
        gc.collect()
        notifier.send(f"STATUS={self.summary()}")

    def _begin_anew(self) -> None:
        """Replace sampler and catalogue, whose names only grow; the ring and what it holds stay."""
        from collectors.sampler import Sampler
        from wardround.models.series import Catalogue

        self.history.close_segment()
        self.sampler.stop()
        catalogue = Catalogue()
        self.ring.move_to(catalogue)
        self.history.move_to(catalogue)
        for follower in self.followers:
            follower.move_to(catalogue)
        self._most_series = max(MOST_SERIES, 2 * len(catalogue))  # the ring itself may hold many
        self.sampler = Sampler(catalogue, self._roots, interval=INTERVAL)
        self.sampler.start()

    def summary(self) -> str:
        coverage = self.sampler.coverage()
        parts = [
            f"{self.ticks} ticks ({self.missed} missed)",
            f"{len(coverage.ran)} collectors ({len(coverage.skipped)} skipped)",
            f"{self.ring.series(LIVE)} series",
        ]
        parts.append(f"history not written: {self.history.failing}" if self.history.failing else "history kept")
        return ", ".join(parts)
