"""Pressure stall information: how long tasks waited for CPU, memory and I/O, and time lost to interrupts.

Source: ``total=`` of /proc/pressure/{cpu,memory,io,irq} (Documentation/accounting/psi.rst), cumulative µs. Needs a
kernel with PSI that is not switched off at boot. It cannot tell who waited. Measured: 0.14 ms a tick.
"""

from __future__ import annotations

import errno
import re

import numpy as np

from collectors.base import Capability, Reading, Roots
from collectors.procfile import KeptFile, read_or_none
from wardround.models.metrics import METRICS
from wardround.models.series import Catalogue, Frame

RESOURCES = ("cpu", "memory", "io", "irq")
TOTAL = re.compile(rb"^(some|full) .*?\btotal=(\d+)", re.MULTILINE)


class PsiCollector:
    """Stall time of the whole host."""

    name = "collectors.psi"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._files = {resource: KeptFile(f"{roots.proc}/pressure/{resource}") for resource in RESOURCES}

    def probe(self) -> Capability:
        try:
            self._files["cpu"].read()
        except FileNotFoundError:
            return Capability(False, "this kernel has no pressure stall information", "a kernel with CONFIG_PSI")
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return Capability(False, "pressure stall information is switched off", "boot with psi=1")
            return Capability(False, f"{self._files['cpu'].path}: {error.strerror}", "run as root")
        return Capability(True)

    def start(self) -> None:
        """Nothing to prepare."""

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        for resource, file in self._files.items():
            for kind, total in TOTAL.findall(read_or_none(file) or b""):
                name = f"linux.psi.{resource}.{kind.decode()}"
                if name in METRICS:
                    ids.append(self._catalogue.id(name))
                    values.append(int(total) * 1e-6)
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values)))

    def stop(self) -> None:
        for file in self._files.values():
            file.close()
