"""Memory errors that the hardware corrected or could not, and machine checks.

Source: /sys/devices/system/edac/mc/mc*/{ce_count,ue_count}, the MCE line of /proc/interrupts. Needs an EDAC driver for
the memory controller; virtual machines have none. Measured cost: 0.1 ms a controller; 0.3 ms for the interrupts of
16 CPUs; every tenth tick.

Which module is at fault stands in the kernel log, not here. Firmware that keeps errors to itself shows none.
"""

from __future__ import annotations

from glob import glob

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame


class EdacCollector:
    """Collector of memory error counts and machine checks."""

    name = "collectors.edac"
    every = 10

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots
        self._counts: list[tuple[str, int]] = []

    def probe(self) -> Capability:
        if self._find():
            return Capability(True)
        if machine_checks(self._roots) is not None:
            return Capability(
                True, "machine checks only: no EDAC memory controller", "modprobe the EDAC driver, if any"
            )
        return Capability(False, "no EDAC memory controller and no machine checks", "modprobe the EDAC driver, if any")

    def start(self) -> None:
        self._counts = self._find()

    def _find(self) -> list[tuple[str, int]]:
        return [
            (
                f"{folder}/{kind}_count",
                self._catalogue.id("linux.edac", controller=folder.rpartition("/")[2], kind=kind),
            )
            for folder in sorted(glob(f"{self._roots.sys}/devices/system/edac/mc/mc[0-9]*"))
            for kind in ("ce", "ue")
        ]

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        for path, number in self._counts:
            try:
                with open(path, encoding="ascii") as file:
                    values.append(float(file.read()))
                ids.append(number)
            except (OSError, ValueError):
                continue
        events = machine_checks(self._roots)
        if events is not None:
            ids.append(self._catalogue.id("linux.mce"))
            values.append(events)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        self._counts = []


def machine_checks(roots: Roots) -> float | None:
    """Return machine check exceptions since boot; None where the architecture does not count them.

    The MCP line counts polls, also those that found nothing: it is no error count and is left out.
    """
    try:
        with open(f"{roots.proc}/interrupts", "rb") as file:
            line = next((line for line in file if line.lstrip().startswith(b"MCE:")), None)
    except OSError:
        return None
    return float(sum(int(word) for word in line.split()[1:] if word.isdigit())) if line else None
