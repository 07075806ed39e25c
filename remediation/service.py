"""Actions on a systemd service: restart it, or stop the loop that restarts it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from remediation.action import INTERRUPTS, READS, Draft, Params, Spec, Target
from wardround.shell import command


class UnitName(Params):
    """One service unit."""

    unit: str = Field(pattern=r"^[\w@.:\\-]+\.service$", max_length=255)


def restart(target: Target) -> Iterator[Draft]:
    if not target.unit:
        return
    unit = target.observation.after.units[target.unit]
    yield Draft(
        params=UnitName(unit=target.unit),
        preview=f"{target.unit}: {unit.active} ({unit.sub}), main pid {unit.main_pid} -> restarted, a new main pid",
        blast_radius=f"1 service; {target.members(unit.cgroup) if unit.cgroup else 1} processes end and start again",
        rollback="none: the state the process held in memory is gone; the unit file stays as it is",
        precheck=command("systemctl show {}", target.unit) + " names the same main pid",
        verify=target.metrics,
    )


def stop_restart_loop(target: Target) -> Iterator[Draft]:
    """Stop a unit that dies again and again, so that its log can be read and its cause be mended."""
    if not target.unit:
        return
    unit = target.observation.after.units[target.unit]
    yield Draft(
        params=UnitName(unit=target.unit),
        preview=f"{target.unit}: {unit.active} ({unit.sub}), {unit.restarts} restarts -> stopped",
        blast_radius="1 service, which was not serving between its deaths",
        rollback=command("systemctl reset-failed {0} && systemctl start {0}", target.unit),
        precheck=command("systemctl show -p NRestarts {}", target.unit) + " still rises",
        verify=target.metrics,
    )


class Program(Params):
    """The name of a program."""

    name: str = Field(min_length=1, max_length=255)


def inspect_failure(target: Target) -> Iterator[Draft]:
    name = target.unit or target.name
    if target.unit:
        how = command("journalctl -n 50 -u {}", name)
    elif "collectors.journal" in target.observation.coverage.ran:
        how = command("journalctl -n 50 {}; dmesg | tail -50", f"_COMM={name}")
    else:
        how = command("grep -rhF -- {} /var/log | tail -50; dmesg | tail -50", name)
    yield Draft(
        params=Program(name=name[:255]),
        preview=f"read the last messages of {name}: {how}",
        blast_radius="none",
        rollback="none needed: it only reads",
        precheck="the journal or the kernel log can be read",
        verify="the message before the end names its reason",
    )


ACTIONS = (
    Spec("service.inspect_failure", "read why a program ends", Program, READS, inspect_failure),
    Spec("service.restart", "restart a service", UnitName, INTERRUPTS, restart),
    Spec("service.stop_restart_loop", "stop a service that keeps dying", UnitName, INTERRUPTS, stop_restart_loop),
)
