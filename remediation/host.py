"""Actions on the host as a whole: mostly reading, since what treats a host touches everything on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from remediation.action import LOCAL, READS, WIDE, Draft, Effect, Params, Spec, Target
from wardround.shell import command

Draftable = Callable[[Target], Iterator[Draft]]


class HostName(Params):
    """This host."""

    host: str = Field(min_length=1, max_length=255)

    @classmethod
    def of(cls, target: Target) -> HostName:
        return cls(host=target.observation.host.name or "localhost")


def _about(preview: str, verify: str, radius: str = "none", rollback: str = "none needed: it only reads") -> Draftable:
    def draft(target: Target) -> Iterator[Draft]:
        host = target.observation.host
        yield Draft(
            params=HostName.of(target),
            preview=preview.format(
                host=host.name, kernel=host.kernel, culprit=target.name, quoted=command("{}", target.name)
            ),
            blast_radius=radius,
            rollback=rollback,
            precheck="the host is up",
            verify=verify,
        )

    return draft


def _spec(name: str, about: str, draft: Draftable, effect: Effect = READS) -> Spec:
    return Spec(name, about, HostName, effect, draft)


ACTIONS = (
    _spec(
        "host.update_kernel",
        "compare the running kernel with the fixed ones",
        _about("compare kernel {kernel} with the distribution's newest: apt list --upgradable 'linux-image*'", "known"),
    ),
    _spec(
        "host.inspect_cooling",
        "read temperatures, fans and power limits",
        _about(
            "read temperatures and limits of {host}: sensors; turbostat; ipmitool sdr", "what holds it down is known"
        ),
    ),
    _spec(
        "host.inspect_hypervisor",
        "ask for this guest's share of the hypervisor",
        _about(
            "read the steal time of {host} and ask who runs the hypervisor: grep '^cpu ' /proc/stat (8th figure)",
            "system.cpu.time, state steal, falls after the guest was moved or given its share",
        ),
    ),
    _spec(
        "host.inspect_coredump",
        "read the core dump of what crashed",
        _about(
            "read the core of {culprit}: cat /proc/sys/kernel/core_pattern; coredumpctl info {quoted}",
            "its last frame is named",
        ),
    ),
    _spec(
        "host.inspect_memory",
        "read which memory module fails",
        _about(
            "read the error counters: grep . /sys/devices/system/edac/mc/mc*/dimm*/dimm_*; ras-mc-ctl --errors",
            "the module is named",
        ),
    ),
    _spec(
        "change.review",
        "list what was changed before the onset",
        _about(
            "list changes on {host}: tail -50 /var/log/dpkg.log /var/log/apt/history.log; last -x | head",
            "the change that precedes the onset is named",
        ),
    ),
    _spec(
        "host.compact_memory",
        "let the kernel bring free memory together",
        _about(
            "free memory of {host}: fragmented -> compacted, by vm.compact_memory",
            "allocstall and compact_stall in linux.vmstat stop rising",
            "the host: seconds of kernel CPU time",
            "none needed: it undoes itself over time",
        ),
        LOCAL,
    ),
    _spec(
        "host.spread_interrupts",
        "spread interrupts and packet steering over the CPUs",
        _about(
            "interrupts of {culprit}: on few CPUs -> spread, by /proc/irq/*/smp_affinity and rps_cpus",
            "linux.softirqs are spread over more CPUs",
            "the device's interrupts; latency may change for a moment",
            "write back the masks that the precheck read",
        ),
        LOCAL,
    ),
    _spec(
        "host.reboot",
        "restart the host",
        _about(
            "{host}: running kernel {kernel} -> rebooted",
            "the fault is no longer found after the start",
            "everything on the host",
            "none: what ran is ended",
        ),
        WIDE,
    ),
)
