"""What the readers of all subjects share: opening maps by name, and the moment of a tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from collectors.ebpf.bpf import Map
from collectors.tally import Sink
from wardround.models.records import KernelEvent


@dataclass(frozen=True, slots=True)
class Moment:
    """A tick: wall and monotonic seconds, and by how much each gated subject's counts are scaled (None: hold)."""

    time: float
    clock: float
    scale: float | None = 1.0

    def wall(self, nanoseconds: int) -> float:
        """Turn a kernel's monotonic stamp into Unix seconds."""
        return self.time - (self.clock - nanoseconds * 1e-9)


class Reader(Protocol):
    """Reads one subject. Built with the maps' descriptors by name. :raises KeyError: the subject was not loaded"""

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]: ...


def open_map(descriptors: Mapping[str, int], name: str, key: Any, value: Any) -> Map:
    return Map(descriptors[name], np.dtype(key), np.dtype(value))


def text(raw: bytes) -> str:
    """Decode a task's comm: host text, so whatever is not printable becomes an escape."""
    decoded = raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in decoded)
