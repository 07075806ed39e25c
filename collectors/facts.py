"""What a host is: name, kernel, sizes, cgroup versions. Source: uname, /proc, /sys, /etc/os-release; once a round.

`virtual` is what the CPU and the firmware admit to (``hypervisor`` flag, DMI product); a host that hides its
hypervisor looks physical. Measured: about 1 ms.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from collectors.base import Roots
from wardround.models.topology import Host


def read_host(roots: Roots | None = None) -> Host:
    """Return the facts of this host; what cannot be read keeps a plain default."""
    roots = roots or Roots()
    uname = os.uname()
    nodes = cpu_list(read_text(f"{roots.sys}/devices/system/node/online"))
    return Host(
        name=uname.nodename,
        kernel=uname.release,
        boot_id=read_text(f"{roots.proc}/sys/kernel/random/boot_id"),
        boot_time=_after(read_text(f"{roots.proc}/stat"), "btime"),
        cpus=os.sysconf("SC_NPROCESSORS_ONLN"),
        memory=int(_after(read_text(f"{roots.proc}/meminfo"), "MemTotal:")) * 1024,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        clock_ticks=os.sysconf("SC_CLK_TCK"),
        cgroup_versions=_cgroup_versions(read_text(f"{roots.proc}/self/mounts")),
        numa_nodes=nodes or (0,),
        virtual=_virtual(roots),
        root=os.geteuid() == 0,
        distribution=_distribution(),
    )


def read_text(path: str) -> str:
    """Return a file's text without trailing white space, empty where it cannot be read."""
    try:
        return Path(path).read_text("utf-8", "replace").rstrip()
    except OSError:
        return ""


def cpu_list(text: str) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as ``0-3,8``."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _after(text: str, key: str) -> float:
    match = re.search(rf"^{re.escape(key)}\s+(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def _cgroup_versions(mounts: str) -> tuple[int, ...]:
    kinds = {line.split()[2] for line in mounts.splitlines() if len(line.split()) > 2}
    return tuple(version for version, kind in ((1, "cgroup"), (2, "cgroup2")) if kind in kinds)


def _virtual(roots: Roots) -> str:
    if not re.search(r"^flags\s*:.*\bhypervisor\b", read_text(f"{roots.proc}/cpuinfo"), re.MULTILINE):
        return ""
    return read_text(f"{roots.sys}/class/dmi/id/product_name") or "virtual machine"


def _distribution() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(path), re.MULTILINE)
        if match:
            return match[1]
    return ""
