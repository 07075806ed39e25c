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


def take_out(target: Target) -> Iterator[Draft]:
    name = device_name(target)
    mounts = [m.mountpoint for m in target.observation.after.mounts if m.device.removeprefix("/dev/") == name]
    yield Draft(
        params=Device(name=name),
        preview=f"{name}: in use" + (f" by {', '.join(mounts[:4])}" if mounts else "") + " -> drained and replaced",
        blast_radius="everything that uses the device: " + (", ".join(mounts[:6]) or "see lsblk, nvidia-smi"),
        rollback="put the device back, if it was not the fault",
        precheck="a copy of its data or a spare device exists, and its users have moved",
        verify=target.metrics,
    )


ACTIONS = (
    Spec(
        "device.inspect_health",
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
    Spec("device.replace", "take a failing device out of use", Device, WIDE, take_out),
)
