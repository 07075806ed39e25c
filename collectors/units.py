"""systemd units: which failed, which are restarted again and again, and the processes behind them.

Source: one `systemctl show` for all services. Needs systemd as process 1; no rights. Cost: not measured yet (no
systemd was at hand); one short-lived process and one answer of process 1, once a minute.

A restart that systemd did not do itself (an operator's, a supervisor inside the unit) does not count in `restarts`.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np

from collectors.base import Capability, Reading, Roots
from wardround.models.series import Catalogue, Frame
from wardround.models.topology import Unit
from wardround.text import clean

PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NRestarts,MainPID,ControlGroup"
PATIENCE = 3.0  # seconds; process 1 may be slow on a sick host


def why_not(roots: Roots) -> str:
    """Return why units cannot be asked for, empty where they can."""
    try:
        with open(f"{roots.proc}/1/comm", encoding="utf-8", errors="replace") as file:
            first = file.read().strip()
    except OSError:
        return "process 1 cannot be seen"
    if first != "systemd" or not os.path.isdir("/run/systemd/system"):
        return f"process 1 is {clean(first, 64)}, not systemd"
    return "" if shutil.which("systemctl") else "systemctl is not installed"


def parse(text: str) -> dict[str, Unit]:
    """Return the loaded units in the output of `systemctl show`: blocks of ``Key=value`` with a blank line between."""
    units = {}
    for block in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = clean(fields.get("Id", ""), 256)
        if not name or fields.get("LoadState") == "not-found":
            continue
        units[name] = Unit(
            name=name,
            active=fields.get("ActiveState", ""),
            sub=fields.get("SubState", ""),
            result=fields.get("Result", ""),
            restarts=_number(fields.get("NRestarts")),
            main_pid=_number(fields.get("MainPID")),
            cgroup=fields.get("ControlGroup", ""),
        )
    return units


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def snapshot_units(roots: Roots | None = None) -> dict[str, Unit]:
    """Return the services by name; empty where systemd does not run or does not answer."""
    if why_not(roots or Roots()):
        return {}
    try:
        done = subprocess.run(
            ["systemctl", "show", "*", "--type=service", "--all", "--no-pager", f"--property={PROPERTIES}"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse(done.stdout.decode("utf-8", "replace"))


class UnitsCollector:
    """Collector of restarts and failures of services."""

    name = "collectors.units"
    every = 60

    def __init__(self, catalogue: Catalogue, roots: Roots) -> None:
        self._catalogue = catalogue
        self._roots = roots

    def probe(self) -> Capability:
        reason = why_not(self._roots)
        return Capability(not reason, reason)

    def start(self) -> None:
        return

    def read(self, time: float, clock: float) -> Reading:
        ids: list[int] = []
        values: list[float] = []
        for unit in snapshot_units(self._roots).values():
            if unit.restarts or unit.active == "failed" or unit.sub == "auto-restart":
                ids += (
                    self._catalogue.id("linux.unit.restarts", unit=unit.name),
                    self._catalogue.id("linux.unit.failed", unit=unit.name),
                )
                values += (unit.restarts, float(unit.active == "failed" or unit.sub == "auto-restart"))
        return Reading(Frame(time, clock, np.array(ids, np.int64), np.array(values, np.float64)))

    def stop(self) -> None:
        return
