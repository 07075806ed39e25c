"""The contract of a collector. `collectors.registry` lists them; the sampler and the conformance suite walk that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Frame

if TYPE_CHECKING:
    from wardround.settings import Settings


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether a collector can run here. `reason` says why not, or where it can, what it will leave out.

    `enable` is what would change that, None if nothing would.
    """

    available: bool
    reason: str = ""
    enable: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one tick brought: a frame of raw values, and log records and kernel events since the last tick."""

    frame: Frame
    logs: tuple[LogRecord, ...] = ()
    events: tuple[KernelEvent, ...] = ()


class Collector(Protocol):
    """One source. `name` is ``collectors.<file>`` as it stands in a report's coverage.

    `every` is the number of sampler ticks (1 s) between reads; sources whose values move slowly or cost more read
    less often. `read` takes the tick's wall and monotonic time in seconds; a thing that vanished while being read
    is left out, a missing or unknown field is skipped, and nothing but a bug raises.

    Three attributes are optional. `partial` (a sentence) says which part of its source it leaves out, `failure` why it
    brings nothing though it was started: both show in the coverage. `own_pids` are processes it started for itself.
    """

    name: str
    every: int

    def probe(self) -> Capability: ...
    def start(self) -> None: ...
    def read(self, time: float, clock: float) -> Reading: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Roots:
    """Where sources lie: the kernel's files (tests and containers point elsewhere), and what the settings name.

    `log_files`, `engines`, `crash_dirs` and `crash_days` as in `wardround.settings`; `cache_dir` is where a collector
    may keep what it can make again (None: nowhere).
    """

    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"
    var: str = "/var"
    log_files: tuple[Path, ...] = ()
    engines: tuple[str, ...] = ()
    crash_dirs: tuple[Path, ...] = ()
    crash_days: float = 3.0
    cache_dir: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Roots:
        """Return the roots of this host with what its settings name."""
        return cls(
            log_files=settings.log_files,
            engines=settings.engines,
            crash_dirs=settings.crash_dirs,
            crash_days=settings.crash_days,
            cache_dir=settings.cache_dir,
        )
