"""System calls that failed, by process and error (``programs/syscalls.c`` says which errors are left out)."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import numpy as np

from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink, Tally
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue


class SyscallReader:
    def __init__(self, maps: Mapping[str, int], catalogue: Catalogue) -> None:
        self._failures = open_map(maps, "syscall_failures", [("tgid", "u4"), ("error", "u4")], "u8")
        self._errors = Tally(
            "linux.process.syscall.errors",
            lambda key: {"pid": key[0], "errno": errno.errorcode.get(key[1], str(key[1]))},
        )
        self._catalogue = catalogue

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        if moment.scale is not None:
            keys, counts = self._failures.drain()
            self._errors.add(keys.tolist(), np.round(counts * moment.scale), self._catalogue)
        self._errors.emit(sink)
        return []
