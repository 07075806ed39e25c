"""Actions after a kernel crash: secure the dump, keep a failed module from loading, let the next crash tell more."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from remediation.action import INTERRUPTS, READS, Draft, Effect, Params, Spec, Target
from remediation.host import HostName
from wardround.models.vmcore import PastCrash, Vmcore
from wardround.shell import command

REBOOTS_SLOWER = Effect(interrupts=True, wide=True)
_SLAB_SIGNS = {"freed_object", "poison", "redzone"}
_NO_CHANGE = "none needed: it only reads"


def _crash(target: Target) -> PastCrash | None:
    """The newest crash that is known."""
    return max(target.observation.crashes, key=lambda crash: crash.time, default=None)


def collect_vmcore(target: Target) -> Iterator[Draft]:
    """Keep the dump and copy it small; where only words are left, say where the kernel leaves more."""
    crash = _crash(target)
    if crash is not None and crash.dump:
        preview = command("keep {0}; a small copy to share: diagnose vmcore slim {0} crash.xz", crash.dump)
    else:
        preview = "read what the kernel left: journalctl -k -b -1; ls /var/crash; cat /sys/fs/pstore/*"
    yield Draft(
        params=HostName.of(target),
        preview=preview,
        blast_radius="none",
        rollback=_NO_CHANGE,
        precheck="the files are still there",
        verify="a dump or the full call trace is at hand",
    )


class ModuleName(Params):
    """One kernel module."""

    module: str = Field(pattern=r"^[\w-]+$", max_length=64)


def block_module(target: Target) -> Iterator[Draft]:
    """Keep a module from outside the kernel's tree from loading; the kernel's own may carry disks or the network."""
    crash, name = _crash(target), target.hypothesis.culprit.label("module") or ""
    known = crash.vmcore.modules if crash is not None and crash.vmcore is not None else ()
    module = next((each for each in known if each.name == name and each.foreign), None)
    if module is None:
        return
    file = f"/etc/modprobe.d/block-{module.name}.conf"
    yield Draft(
        params=ModuleName(module=module.name),
        preview=f"{module.name} (taints {module.taints}): loaded -> not loaded from the next start on, by "
        + command("echo {} > {}", f"install {module.name} /bin/false", file)
        + " and a new initramfs, until its maker has mended it",
        blast_radius=f"whatever needs {module.name}: its devices, filesystems or features are missing",
        rollback=command("rm {} && modprobe {}", file, module.name),
        precheck=command("modinfo -F filename {}", module.name) + f" is a file; lsmod names what uses {module.name}",
        verify=command("lsmod | grep -w {}", module.name) + " names it no more after a restart",
    )


def _slab_in_doubt(target: Target, vmcore: Vmcore) -> bool:
    """Whether it is a slab object that was misused or leaked, and the allocator kept no record of it."""
    if any("command line" in line.text and "slub_debug" in line.text for line in vmcore.log):
        return False
    leaked = target.hypothesis.fault == "kernel.out_of_memory" and target.hypothesis.culprit.label("cache") is not None
    return leaked or any(one.kind in _SLAB_SIGNS for one in vmcore.anomalies)


def trace_slab(target: Target) -> Iterator[Draft]:
    """Let the allocator remember who took and freed each object, where the dump could not tell."""
    crash = _crash(target)
    if crash is None or crash.vmcore is None or not _slab_in_doubt(target, crash.vmcore):
        return
    yield Draft(
        params=HostName.of(target),
        preview="kernel command line: as it is -> with slub_debug=FZPU, so that the next dump names who allocated and "
        "freed the object",
        blast_radius="the whole host: a restart, then more memory and time for each allocation of the kernel",
        rollback="take slub_debug=FZPU out of the kernel command line and restart",
        precheck="slub_debug is not in /proc/cmdline",
        verify="slub_debug is in /proc/cmdline",
    )


ACTIONS = (
    Spec("host.collect_vmcore", "secure the crash dump and the kernel's last words", HostName, READS, collect_vmcore),
    Spec("kernel.block_module", "keep a module that failed from loading", ModuleName, INTERRUPTS, block_module),
    Spec("kernel.trace_slab", "record who allocates and frees kernel memory", HostName, REBOOTS_SLOWER, trace_slab),
)
