"""Actions on a block device or an accelerator: read its health, take it out of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from remediation.action import READS, WIDE, Draft, Params, Spec, Target


class Device(Params):
    """One device by its name."""

    name: str = Field(pattern=r"^[\w.:/@-]+$", max_length=255)


def _reading(what: str, command: str) -> Callable[[Target], Iterator[Draft]]:
    def draft(target: Target) -> Iterator[Draft]:
        name = device_name(target)
        yield Draft(
            params=Device(name=name),
            preview=f"read {what} of {name}: {command.format(name=name)}",
            blast_radius="none",
            rollback="none needed: it only reads",
            precheck="the device is still there",
            verify=f"the {what} confirm or clear the device",
        )

    return draft


def device_name(target: Target) -> str:
    """Return the device's name in letters that a device may have."""
    kept = "".join(c for c in target.name if c.isalnum() or c in "_.:/@-")
    return kept[:255] or "unknown"


def _users(target: Target, name: str) -> list[str]:
    """Return the processes that hold memory of the device."""
    held = target.observation.window.entities("hw.gpu.process.memory", "pid", gpu=name)
    found = [target.processes.get(int(pid)) for pid in held if pid.isdigit()]
    return [f"{process.name} (pid {process.pid})" for process in found if process is not None]


def take_out(target: Target) -> Iterator[Draft]:
    name = device_name(target)
    users = _users(target, name)
    yield Draft(
        params=Device(name=name),
        preview=f"{name}: in use" + (f" by {', '.join(users[:4])}" if users else "") + " -> drained and taken out",
        blast_radius="everything that uses the device: " + (", ".join(users[:6]) or "see nvidia-smi"),
        rollback="put the device back, if it was not the fault",
        precheck="a copy of its data or a spare device exists, and its users have moved",
        verify=target.metrics,
    )


ACTIONS = (
    Spec(
        "io.inspect_device",
        "read a disk's own health report",
        Device,
        READS,
        _reading("health", "smartctl -x /dev/{name}; dmesg | grep -i {name}"),
    ),
    Spec(
        "accelerator.inspect",
        "read an accelerator's errors, clocks and links",
        Device,
        READS,
        _reading("errors, clocks and links", "nvidia-smi -q -i {name}; dmesg | grep -i xid"),
    ),
    Spec("accelerator.drain", "take a failing accelerator out of use", Device, WIDE, take_out),
)
