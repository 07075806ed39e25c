"""Temperatures, and how often the processor was held back for heat.

Source: /sys/class/thermal/thermal_zone*/temp, /sys/devices/system/cpu/cpu*/thermal_throttle (x86). Needs nothing;
virtual machines have neither. Cost: one small file a zone and CPU, every tenth tick (some
sensors answer over a slow bus).

Clock frequencies are read by the host collector. Power capping without heat does not count as throttling here.
"""

from __future__ import annotations

import os
from glob import glob

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame

MILLI = 1e-3
SCOPES = ("core", "package")


class ThermalCollector:
    """Collector of thermal zones and throttle counts."""

    name = "collectors.thermal"
    every = 10

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._sys = roots.sys
        self._files: list[tuple[str, int, float]] = []  # path, series, unit

    def probe(self) -> Capability:
        if self._find():
            return Capability(True)
        return Capability(False, "no thermal zones and no throttle counters (a virtual machine, or no driver)")

    def start(self) -> None:
        self._files = self._find()

    def _find(self) -> list[tuple[str, int, float]]:
        found = []
        for zone in sorted(glob(f"{self._sys}/class/thermal/thermal_zone*")):
            kind = _text(f"{zone}/type") or "zone"
            name = f"{kind}:{zone.rpartition('thermal_zone')[2]}"  # several zones may be of one type
            found.append((f"{zone}/temp", self._catalogue.id("linux.thermal.temperature", zone=name), MILLI))
        for folder in glob(f"{self._sys}/devices/system/cpu/cpu[0-9]*/thermal_throttle"):
            cpu = folder.split("/")[-2].removeprefix("cpu")
            for scope in SCOPES:
                path = f"{folder}/{scope}_throttle_count"
                if os.path.exists(path):
                    found.append((path, self._catalogue.id("linux.cpu.throttle", cpu=cpu, scope=scope), 1.0))
        return found

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        for path, number, unit in self._files:
            text = _text(path)  # a sensor may be absent at times: EAGAIN, ENODATA
            if text.removeprefix("-").isdigit():
                ids.append(number)
                values.append(int(text) * unit)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        self._files = []


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
