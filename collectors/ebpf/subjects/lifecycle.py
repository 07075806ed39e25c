"""Forks, executed programs, ended children by parent; abnormal ends, killing signals and OOM victims as events
(``programs/lifecycle.c``).

A parent that lets children be reaped elsewhere (a subreaper) is the parent at the time of death.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from collectors.ebpf.subjects.reader import Moment, open_map, text
from collectors.tally import Sink, Tally
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue

EXIT, SIGNAL, OOM = 1, 2, 3
_RECORD = [
    ("at", "u8"), ("kind", "u4"), ("pid", "u4"), ("other", "u4"), ("code", "u4"), ("amount", "u8"),
    ("comm", "S16"), ("other_comm", "S16"),
]  # fmt: skip
_ENDED = [("parent", "u4"), ("comm", "S16"), ("status", "u4")]


class LifecycleReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue) -> None:
        self._records = open_map(maps, "lifecycle_records", "u4", _RECORD)
        self._lost = open_map(maps, "lifecycle_lost", "u4", "u8")
        self._tasks = open_map(maps, "lifecycle_tasks", "u4", [("counts", "u8", 3)])
        self._endings = open_map(maps, "lifecycle_endings", _ENDED, [("count", "u8"), ("lived", "u8")])
        self._created = [
            Tally(metric, lambda pid: {"pid": pid})
            for metric in ("linux.process.forks", "linux.process.threads_created", "linux.process.execs")
        ]
        self._ended = Tally("linux.process.children.ended", _ended_labels)
        self._lived = Tally("linux.process.children.lived", _ended_labels, least=0.0)
        self._catalogue = catalogue

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        pids, tasks = self._tasks.drain()
        for kind, tally in enumerate(self._created):
            rows = np.flatnonzero(tasks["counts"][:, kind])
            tally.add(pids[rows].tolist(), tasks["counts"][rows, kind].astype(np.float64), self._catalogue)
            tally.emit(sink)
        ended, endings = self._endings.drain()
        keys = [(parent, text(comm), _outcome(status)) for parent, comm, status in ended.tolist()]
        self._ended.add(keys, endings["count"].astype(np.float64), self._catalogue)
        self._lived.add(keys, endings["lived"] * 1e-9, self._catalogue)
        self._ended.emit(sink)
        self._lived.emit(sink)
        return [_event(row, moment) for row in self._records.pop_all().tolist()]

    def lost(self) -> int:
        """Return how many records found the queue full since loading."""
        return int(self._lost.read()[1].sum())


def _ended_labels(key: tuple[int, str, str]) -> dict[str, object]:
    return {"pid": key[0], "comm": key[1], "outcome": key[2]}


def _outcome(status: int) -> str:
    """Say how a wait status ends a process: ``ok``, ``exit`` with its code, or ``signal`` with its number."""
    if status & 0x7F:
        return f"signal {status & 0x7F}"
    return f"exit {status >> 8 & 0xFF}" if status else "ok"


def _event(row: tuple[int, int, int, int, int, int, bytes, bytes], moment: Moment) -> KernelEvent:
    at, kind, pid, other, code, amount, comm, other_comm = row
    time, name, by = moment.wall(at), text(comm), text(other_comm)
    if kind == EXIT:
        attributes: dict[str, str | int | float] = {
            "ppid": other, "parent_comm": by, "exit_code": code >> 8 & 0xFF, "signal": code & 0x7F,
            "seconds_lived": round(amount * 1e-9, 6),
        }  # fmt: skip
        return KernelEvent(time, "process_exit", pid, name, attributes)
    if kind == SIGNAL:
        return KernelEvent(time, "fatal_signal", pid, name, {"signal": code, "sender_pid": other, "sender_comm": by})
    return KernelEvent(
        time, "oom_kill", pid, name, {"anon_rss_bytes": amount, "trigger_pid": other, "trigger_comm": by}
    )
