"""The collectors this program brings, and those that other distributions add through entry points.

A factory takes the shared `Catalogue` and the `Roots` and returns a `Collector`. Modules are imported only
when a sampler is built, so listing costs nothing at the start of the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points

from collectors.base import Collector, Roots
from wardround.models.series import Catalogue

Factory = Callable[[Catalogue, Roots], Collector]

GROUP = "wardround.collectors"

# name as it stands in a report's coverage -> "module:class"
BUILTIN: dict[str, str] = {
    "collectors.host": "collectors.host:HostCollector",
    "collectors.memory": "collectors.memory:MemoryCollector",
    "collectors.psi": "collectors.psi:PsiCollector",
    "collectors.interrupts": "collectors.interrupts:InterruptsCollector",
    "collectors.process": "collectors.process:ProcessCollector",
    "collectors.cgroup": "collectors.cgroup:CgroupCollector",
    "collectors.block": "collectors.block:BlockCollector",
    "collectors.filesystem": "collectors.filesystem:FilesystemCollector",
    "collectors.network": "collectors.network:NetworkCollector",
    "collectors.sockets": "collectors.sockets:SocketsCollector",
    "collectors.kmsg": "collectors.kmsg:KmsgCollector",
    "collectors.logfiles": "collectors.logfiles:LogfilesCollector",
    "collectors.journal": "collectors.journal:JournalCollector",
    "collectors.units": "collectors.units:UnitsCollector",
    "collectors.engines": "collectors.engines:EnginesCollector",
    "collectors.ebpf": "collectors.ebpf.collector:EbpfCollector",
    "collectors.taskstats": "collectors.taskstats:TaskstatsCollector",
    "collectors.numa": "collectors.numa:NumaCollector",
    "collectors.thermal": "collectors.thermal:ThermalCollector",
    "collectors.edac": "collectors.edac:EdacCollector",
    "collectors.nvml": "collectors.nvml:NvmlCollector",
}


def factories() -> Iterator[tuple[str, Factory]]:
    """Yield ``(name, factory)`` of every known collector, built-ins first; calling a factory imports its module."""
    for name, target in BUILTIN.items():
        yield name, _lazy(target)
    for entry in entry_points(group=GROUP):
        if entry.name not in BUILTIN:
            yield entry.name, _lazy(entry.value)


def _lazy(target: str) -> Factory:
    def build(catalogue: Catalogue, roots: Roots) -> Collector:
        module, _, attribute = target.partition(":")
        collector: Collector = getattr(import_module(module), attribute)(catalogue, roots)
        return collector

    return build
