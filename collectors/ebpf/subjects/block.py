"""Block request latency by device, volume and time by the process that sent them (``programs/block.c``).

Latency quantiles are over reads and writes of the tick together (an octave's resolution, interpolated).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from collectors.ebpf.histogram import octave_edges, quantiles
from collectors.ebpf.subjects.reader import Moment, open_map
from collectors.tally import Sink, Tally
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue, FloatArray

DIRECTIONS = ("read", "write", "discard", "flush")
QUANTILES = (0.5, 0.99, 1.0)
LOOK_FOR_DEVICES = 30  # ticks
_LATENCY = [("buckets", "u4", 40), ("ns", "u8"), ("count", "u8"), ("errors", "u8")]


class BlockReader:
    """`follow_bios` is called once, when the first device without a request queue is seen."""

    def __init__(
        self,
        maps: Mapping[str, int],
        catalogue: Catalogue,
        sys: Path = Path("/sys"),
        follow_bios: Callable[[], None] = lambda: None,
    ) -> None:
        self._follow_bios: Callable[[], None] | None = follow_bios
        key = [("tgid", "u4"), ("device", "u4"), ("direction", "u4"), ("unused", "u4")]
        self._io = open_map(maps, "block_io", key, [("bytes", "u8"), ("count", "u8"), ("ns", "u8")])
        self._latency = open_map(maps, "block_latency", [("device", "u4"), ("direction", "u4")], _LATENCY)
        self._bio_devices = open_map(maps, "bio_devices", "u4", "u4")
        self._edges = octave_edges()
        self._tallies = {
            "bytes": Tally("linux.disk.process_io", self._process_labels),
            "count": Tally("linux.disk.process_operations", self._process_labels),
            "ns": Tally("linux.disk.process_time", self._process_labels, least=1e-6),
        }
        self._errors = Tally(
            "linux.disk.errors", lambda key: {"device": self._name(key[0]), "direction": DIRECTIONS[key[1]]}
        )
        self._names: dict[int, str] = {}
        self._catalogue, self._sys, self._tick = catalogue, sys, 0

    def read(self, sink: Sink, moment: Moment) -> list[KernelEvent]:
        if self._tick % LOOK_FOR_DEVICES == 0:
            self._list_bio_devices()
        self._tick += 1
        if moment.scale is not None:
            self._collect_processes(moment.scale)
            self._collect_latency(moment.scale, sink)
        for tally in (*self._tallies.values(), self._errors):
            tally.emit(sink)
        return []

    def _collect_processes(self, scale: float) -> None:
        keys, values = self._io.drain()
        if len(keys):
            names = [(tgid, device, direction) for tgid, device, direction, _ in keys.tolist()]
            for field, tally in self._tallies.items():
                tally.add(names, values[field] * (scale * (1e-9 if field == "ns" else 1.0)), self._catalogue)

    def _collect_latency(self, scale: float, sink: Sink) -> None:
        keys, values = self._latency.drain()
        by_device: dict[int, FloatArray] = {}
        for (device, direction), row in zip(keys.tolist(), values, strict=True):
            if DIRECTIONS[direction] in ("read", "write"):
                by_device[device] = by_device.get(device, np.zeros(len(self._edges) - 1)) + row["buckets"]
            if row["errors"]:
                self._errors.add([(device, direction)], np.array([row["errors"] * scale]), self._catalogue)
        for device, counts in by_device.items():
            for q, value in zip(QUANTILES, quantiles(counts, self._edges, QUANTILES), strict=True):
                if value == value:
                    name = self._name(device)
                    sink.put(self._catalogue.id("linux.disk.latency", device=name, quantile=f"{q:g}"), value)

    def _process_labels(self, key: tuple[int, int, int]) -> dict[str, object]:
        return {"pid": key[0], "device": self._name(key[1]), "direction": DIRECTIONS[key[2]]}

    def _name(self, device: int) -> str:
        """Name a device by its number, as the kernel packs it in tracepoints: 12 bits of major, 20 of minor."""
        if device not in self._names:
            number = f"{device >> 20}:{device & 0xFFFFF}"
            try:
                self._names[device] = os.path.basename(os.readlink(self._sys / "dev/block" / number))
            except OSError:
                self._names[device] = number  # gone already
        return self._names[device]

    def _begin_following(self) -> None:
        if self._follow_bios is not None:
            follow, self._follow_bios = self._follow_bios, None
            follow()

    def _list_bio_devices(self) -> None:
        """Tell the programs which devices in use have no request queue (dm, md, zram): they are followed by bios."""
        try:
            folders = list((self._sys / "block").iterdir())
        except OSError:
            return
        for folder in folders:
            try:
                if not (folder / "mq").exists() and int((folder / "size").read_text()):
                    major, _, minor = (folder / "dev").read_text().partition(":")
                    self._bio_devices.set(int(major) << 20 | int(minor), 1)
                    self._begin_following()
            except (OSError, ValueError):
                continue  # removed meanwhile
