"""The topology snapshot: each subject from the module that knows its source; a subject that fails is left out.

What this cannot know: a snapshot is read over some tens of milliseconds, so an edge may point at a thing that has
just gone. Measured: about 100 ms on a host with 110 processes, half of it threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import structlog

from collectors.base import Roots
from collectors.lanes import Lanes
from wardround.models.topology import TopologySnapshot

log = structlog.get_logger(__name__)

PATIENCE = 5.0
# field of the snapshot -> "module:function"; each takes the roots
SUBJECTS: dict[str, str] = {
    "processes": "collectors.process_table:snapshot_processes",
    "cgroups": "collectors.cgroup_tree:snapshot_cgroups",
    "sockets": "collectors.sockets:snapshot_sockets",
    "mounts": "collectors.filesystem:snapshot_mounts",
    "devices": "collectors.block:snapshot_devices",
    "interfaces": "collectors.network:snapshot_interfaces",
    "units": "collectors.units:snapshot_units",
    "engines": "collectors.engines:snapshot_engines",
}
# what costs much and is told once, at the end of a window: the cheaper form for its start
AT_START = {"mounts": "collectors.filesystem:list_mounts"}


def snapshot(roots: Roots | None = None, *, at_start: bool = False) -> tuple[TopologySnapshot, dict[str, str]]:
    """Return the host as it stands now, and for each subject that could not be read the reason.

    A subject that does not come back within `PATIENCE` seconds (a dead filesystem, a host that thrashes) is left out.
    `at_start` of a window the cheaper forms of `AT_START` are taken.
    """
    roots = roots or Roots()
    now = time.time()
    read: dict[str, Any] = {}
    failed: dict[str, str] = {}
    lanes = Lanes()
    sources = SUBJECTS | AT_START if at_start else SUBJECTS
    lanes.run((partial(_read, subject, source, roots, read, failed) for subject, source in sources.items()), PATIENCE)
    lanes.close()
    subjects, reasons = dict(read), dict(failed)  # a subject that comes back later must not change what is returned
    for subject in SUBJECTS.keys() - subjects.keys() - reasons.keys():
        reasons[subject] = f"did not come back within {PATIENCE:.0f} s"
    return TopologySnapshot(time=now, **subjects), reasons


def _read(subject: str, source: str, roots: Roots, read: dict[str, Any], failed: dict[str, str]) -> None:
    module, _, name = source.partition(":")
    try:
        function: Callable[[Roots], Any] = getattr(import_module(module), name)
        read[subject] = function(roots)
    except Exception as error:  # noqa: BLE001 - task boundary: one subject must not cost the others
        log.warning("snapshot_failed", subject=subject, error=str(error), kind=type(error).__name__)
        failed[subject] = f"{type(error).__name__}: {error}"
