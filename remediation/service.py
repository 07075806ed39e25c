"""Actions on a systemd service: restart it, or stop the loop that restarts it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from remediation.action import INTERRUPTS, READS, Draft, Params, Spec, Target


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
        precheck=f"systemctl show {target.unit} names the same main pid",
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
        rollback=f"systemctl reset-failed {target.unit} && systemctl start {target.unit}",
        precheck=f"systemctl show -p NRestarts {target.unit} still rises",
        verify=target.metrics,
    )


class Program(Params):
    """The name of a program."""

    name: str = Field(min_length=1, max_length=255)


def inspect_failure(target: Target) -> Iterator[Draft]:
    name = target.unit or target.name
    command = f"journalctl -u {name} -n 50" if target.unit else f"journalctl -n 50 _COMM={name}; dmesg | tail -50"
    yield Draft(
        params=Program(name=name[:255]),
        preview=f"read the last messages of {name}: {command}",
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
