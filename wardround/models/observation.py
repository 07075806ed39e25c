"""Everything a round may look at. A round reads this and nothing else, so a recording replays to the same diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wardround.models.diagnosis import Coverage
from wardround.models.records import KernelEvent, LogRecord
from wardround.models.series import Baseline, Window
from wardround.models.topology import Host, TopologySnapshot

if TYPE_CHECKING:
    from wardround.models.vmcore import PastCrash  # 15 ms that a host without a crash need not spend


@dataclass(frozen=True)
class Observation:
    """One host over one window.

    `before` and `after` are the topology at both ends; `baseline` is aligned with `window.series`; `own_pids` are
    ours (the command, its loader, the watch daemon), never a culprit; `logs` and `events` are in time order and
    reach back further than the window where a source keeps history (kmsg since boot, journal, log files). `crashes`
    are those that left files on this host, the newest first.
    """

    host: Host
    window: Window
    baseline: Baseline
    before: TopologySnapshot
    after: TopologySnapshot
    logs: tuple[LogRecord, ...]
    events: tuple[KernelEvent, ...]
    coverage: Coverage
    own_pids: frozenset[int] = frozenset()
    crashes: tuple[PastCrash, ...] = ()

    @property
    def start(self) -> float:
        return self.before.time

    @property
    def end(self) -> float:
        return self.after.time
