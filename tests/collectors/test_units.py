"""Units: what `systemctl show` prints, and hosts without systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.base import Roots
from collectors.units import UnitsCollector, parse, snapshot_units, why_not
from wardround.models.series import Catalogue

SHOWN = """\
Type=simple
MainPID=812
NRestarts=17
Result=exit-code
Id=shop.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
ControlGroup=/system.slice/shop.service

Id=gone.service
LoadState=not-found
ActiveState=inactive

Id=ssh.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
NRestarts=[not set]
MainPID=0

nonsense
"""


def test_services_are_read_with_their_restarts_and_results():
    """Unloaded names are left out, values that are no numbers count as none."""
    units = parse(SHOWN)
    assert set(units) == {"shop.service", "ssh.service"}
    shop = units["shop.service"]
    assert (shop.active, shop.sub, shop.result, shop.restarts, shop.main_pid) == (
        "activating", "auto-restart", "exit-code", 17, 812,
    )  # fmt: skip
    assert shop.cgroup == "/system.slice/shop.service"
    assert units["ssh.service"].restarts == 0


def test_without_systemd_there_are_no_units_and_a_reason(tmp_path):
    """Process 1 is something else: said so, nothing started."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/comm").write_text("tini\n")
    roots = Roots(proc=str(tmp_path))
    assert why_not(roots) == "process 1 is tini, not systemd"
    assert not UnitsCollector(Catalogue(), roots).probe().available
    assert snapshot_units(roots) == {}


@pytest.mark.skipif(bool(why_not(Roots())), reason="systemd does not run here")
def test_a_running_systemd_knows_its_own_journal():
    """On a host with systemd the list holds a service that is always there."""
    units = snapshot_units()
    assert units["systemd-journald.service"].main_pid == int(
        next(p for p in Path("/proc").glob("[0-9]*/comm") if p.read_text() == "systemd-journal\n").parent.name
    )
