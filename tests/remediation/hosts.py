"""Small observations with one thing wrong each, and the action that must be drafted for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wardround.models.diagnosis import Coverage, Culprit, CulpritKind, Hypothesis, Risk
from wardround.models.observation import Observation
from wardround.models.series import Baseline, Catalogue, Frame, Window
from wardround.models.topology import (
    BlockDevice,
    Cgroup,
    Engine,
    Host,
    Interface,
    Mount,
    Process,
    Socket,
    TopologySnapshot,
    Unit,
)
from wardround.models.vmcore import DumpHeader, LogLine, ModuleInfo, PastCrash, Vmcore

START = 1_790_000_000.0
PID = 321


@dataclass(frozen=True)
class Case:
    """An action, what it treats, where, its grade, and what its preview must hold."""

    action: str
    hypothesis: Hypothesis
    observation: Observation
    risk: Risk
    told: tuple[str, ...]


def hypothesis(
    fault: str, kind: CulpritKind, name: str, pid: int | None = None, labels: Mapping[str, str] | None = None
) -> Hypothesis:
    culprit = Culprit(kind, name, pid, tuple((labels or {}).items()))
    return Hypothesis("hyp_1", fault, culprit, 0.9, "confirmed", None)


def observation(
    topology: TopologySnapshot, metrics: Mapping[tuple[str, tuple[tuple[str, object], ...]], float]
) -> Observation:
    """Two ticks a second apart; counters rise by their value each second."""
    catalogue = Catalogue()
    ids = [catalogue.id(name, **dict(labels)) for name, labels in metrics]
    levels = np.array(list(metrics.values()), float)
    counters = np.array([catalogue[number].metric.kind == "counter" for number in ids], bool)
    order = np.array(ids, np.int64)
    frames = [Frame(START + tick, 10.0 + tick, order, np.where(counters, levels * tick, levels)) for tick in range(3)]
    window = Window.of(catalogue, frames)
    host = Host("h", "6.1.0", "b", START - 1000, 4, 8 * 2**30, 4096, 100, (2,), (0, 1))
    return Observation(host, window, Baseline.unknown(len(window.series)), topology, topology, (), (), Coverage())


def metric(name: str, **labels: object) -> tuple[str, tuple[tuple[str, object], ...]]:
    return name, tuple(labels.items())


PROCESS = Process(
    PID, 1, "worker", START - 60, "R", cmdline="worker --jobs 4", exe="/usr/bin/worker", cgroups=(("", "/jobs"),)
)
SERVICE = replace(PROCESS, unit="worker.service")


def _host(
    process: Process = PROCESS,
    group: Cgroup | None = None,
    metrics: Mapping[tuple[str, tuple[tuple[str, object], ...]], float] | None = None,
    **topology: object,
) -> Observation:
    group = group or Cgroup("/jobs", 2)
    snapshot = TopologySnapshot(START, {process.pid: process}, {group.path: group}, **topology)  # type: ignore[arg-type]
    return observation(snapshot, metrics or {metric("system.memory.usage", state="available"): 4 * 2**30})


def _process(fault: str, **labels: str) -> Hypothesis:
    return hypothesis(fault, "process", "worker", PID, labels)


_MOUNT = Mount("/srv", "sdb1", "ext4", ("rw",), "8:17", "/dev/sdb1", largest=(("/srv/dump.sql", 5 * 2**30),))
_SPACE = {
    metric("system.filesystem.usage", mountpoint="/srv", state="used"): 9 * 2**30,
    metric("system.filesystem.usage", mountpoint="/srv", state="free"): 0.0,
    metric("linux.filesystem.inodes", mountpoint="/srv", state="used"): 1000.0,
    metric("linux.filesystem.inodes", mountpoint="/srv", state="free"): 0.0,
}
_UNIT = Unit("worker.service", "active", "running", "exit-code", 17, PID, "/jobs")
_LISTENER = Socket("listen", "0.0.0.0:80", "", 1, PID, queue=128, backlog=128)
_ENGINE = Engine("llama.cpp", PID, "127.0.0.1:8080", "m.gguf", threads=16, healthy=False)
_LINKS = (
    Interface("eth0", 1, 2, "", "up", 1500, ("10.0.0.1",), "fq_codel"),
    Interface("eth1", 1, 3, "", "up", 1500, ("10.0.1.1",)),
)


def crashed(modules: tuple[ModuleInfo, ...] = (), log: tuple[LogLine, ...] = ()) -> Observation:
    """A host whose dump was read."""
    header = DumpHeader("/var/crash/a b/vmcore", "elf", 1 << 27, "dump", "x86_64")
    return replace(_host(), crashes=(PastCrash(START, header.path, vmcore=Vmcore(header, modules=modules, log=log)),))


CASES = (
    Case("process.renice", _process("cpu.saturation"), _host(), "R1", ("worker (pid 321)", "0 -> 10")),
    Case(
        "process.set_affinity",
        _process("cpu.affinity"),
        _host(replace(PROCESS, affinity=(1,))),
        "R1",
        ("1 -> 0-3",),
    ),
    Case(
        "process.raise_fd_limit",
        _process("proc.fd_exhaustion"),
        _host(replace(PROCESS, fds=1024, fd_limit=1024)),
        "R1",
        ("1024, 1024 in use -> 4096",),
    ),
    Case("process.continue", _process("proc.hung"), _host(replace(PROCESS, state="T")), "R1", ("state T", "SIGCONT")),
    Case("process.terminate", _process("cpu.saturation"), _host(), "R2", ("running -> ended by SIGTERM",)),
    Case(
        "process.signal_parent_reap",
        _process("proc.zombies"),
        observation(
            TopologySnapshot(START, {PID: PROCESS, 400: Process(400, PID, "job", START, "Z")}),
            {metric("linux.processes.zombie"): 1.0},
        ),
        "R1",
        ("1 -> 0",),
    ),
    Case(
        "process.rebind_numa",
        _process("mem.numa_remote"),
        _host(
            metrics={
                metric("linux.process.numa", pid=PID, node=0): 10.0,
                metric("linux.process.numa", pid=PID, node=1): 4096.0,
            }
        ),
        "R1",
        ("4096 bytes on node 1 -> node 0",),
    ),
    Case("process.capture_stacks", _process("lock.contention"), _host(), "R0", ("/proc/321/task",)),
    Case("process.capture_memory_profile", _process("mem.leak"), _host(), "R0", ("/proc/321/smaps",)),
    Case("process.list_files", _process("proc.fd_exhaustion"), _host(), "R0", ("/proc/321/fd",)),
    Case(
        "cgroup.set_cpu_quota",
        hypothesis("cpu.throttling", "cgroup", "/jobs"),
        _host(group=Cgroup("/jobs", 1, cpu_quota=0.2, cpu_period=0.05)),
        "R1",
        ("cpu.cfs_quota_us of /jobs: 10000 per 50000 us", "-> -1"),
    ),
    Case(
        "cgroup.set_memory_limit",
        _process("mem.oom"),
        _host(group=Cgroup("/jobs", 2, memory_limit=2**30)),
        "R1",
        (f"memory.max of /jobs: {2**30} -> {2**30 * 3 // 2}",),
    ),
    Case("cgroup.set_pids_limit", _process("proc.fork_storm"), _host(), "R1", ("pids.max of /jobs: max -> 64",)),
    Case(
        "io.lift_throttle",
        hypothesis("io.latency", "device", "sdb"),
        _host(group=Cgroup("/jobs", 2, io_limits=("sdb rbps 1048576",))),
        "R1",
        ("sdb rbps 1048576 -> no limit",),
    ),
    Case(
        "io.limit_process",
        _process("io.saturation", device="sdb"),
        _host(
            devices={"sdb": BlockDevice("sdb", "8:16", 2**40, False, False)},
            metrics={metric("process.disk.io", pid=PID, direction="write"): 100e6},
        ),
        "R1",
        ("sdb (8:16): no limit, 100000000 bytes/s moved -> 50000000 bytes/s",),
    ),
    Case(
        "service.restart",
        _process("mem.leak"),
        _host(SERVICE, units={"worker.service": _UNIT}),
        "R2",
        ("main pid 321 -> restarted",),
    ),
    Case(
        "service.stop_restart_loop",
        _process("proc.crash_loop"),
        _host(SERVICE, units={"worker.service": _UNIT}),
        "R2",
        ("17 restarts -> stopped",),
    ),
    Case("service.inspect_failure", _process("proc.crash_loop"), _host(), "R0", ("grep -rhF -- worker /var/log",)),
    Case(
        "fs.free_space",
        hypothesis("fs.full", "filesystem", "/srv"),
        _host(mounts=(_MOUNT,), metrics=_SPACE),
        "R3",
        ("/srv/dump.sql (5368709120 bytes)", f"{9 * 2**30} bytes used, 0 free"),
    ),
    Case(
        "fs.list_largest",
        hypothesis("fs.inodes", "filesystem", "/srv"),
        _host(mounts=(_MOUNT,), metrics=_SPACE),
        "R0",
        ("--inodes /srv",),
    ),
    Case(
        "fs.grow",
        hypothesis("fs.full", "filesystem", "/srv"),
        _host(mounts=(_MOUNT,), metrics=_SPACE),
        "R1",
        (f"{9 * 2**30} -> {9 * 2**30 + 9 * 2**28} bytes",),
    ),
    Case(
        "fs.fsck_and_remount",
        hypothesis("io.device_error", "device", "sdb1"),
        _host(mounts=(_MOUNT,)),
        "R2",
        ("read-only -> unmounted, sdb1 checked",),
    ),
    Case("fs.inspect_errors", hypothesis("fs.readonly", "filesystem", "/srv"), _host(), "R0", ("dmesg",)),
    Case(
        "net.raise_backlog",
        _process("net.backlog", listen="0.0.0.0:80"),
        _host(sockets=(_LISTENER,)),
        "R1",
        ("128 waiting, limit 128 -> 1024",),
    ),
    Case(
        "net.widen_port_range",
        _process("net.ports", netns="4026532"),
        _host(
            metrics={
                metric("linux.tcp.ports.range", netns=""): 28232.0,
                metric("linux.tcp.ports.range", netns="4026532"): 300.0,
            }
        ),
        "R1",
        ("namespace of pid 321: 300 ports -> 1024 65535",),
    ),
    Case(
        "net.raise_conntrack_limit",
        hypothesis("net.conntrack", "host", "h"),
        _host(metrics={metric("linux.conntrack.limit"): 65536.0, metric("linux.conntrack.count"): 65530.0}),
        "R1",
        ("65536 (65530 in use) -> 131072",),
    ),
    Case(
        "net.inspect_interface",
        hypothesis("net.link", "interface", "eth0"),
        _host(interfaces=_LINKS),
        "R0",
        ("eth0 (up, queue fq_codel, mtu 1500)",),
    ),
    Case(
        "net.inspect_path",
        hypothesis("net.loss", "interface", "eth0", labels={"peer": "10.0.0.9"}),
        _host(interfaces=_LINKS),
        "R0",
        ("10.0.0.9",),
    ),
    Case(
        "net.replace_path",
        hypothesis("net.loss", "interface", "eth0"),
        _host(interfaces=_LINKS),
        "R3",
        ("routed over eth1",),
    ),
    Case("io.inspect_device", hypothesis("hardware.disk", "device", "sdb"), _host(), "R0", ("smartctl -x /dev/sdb",)),
    Case(
        "accelerator.drain",
        hypothesis("accelerator.lost", "device", "0"),
        _host(metrics={metric("hw.gpu.process.memory", gpu=0, pid=PID): 1.0}),
        "R3",
        ("worker (pid 321)",),
    ),
    Case("accelerator.inspect", hypothesis("accelerator.lost", "device", "0"), _host(), "R0", ("nvidia-smi",)),
    Case(
        "engine.set_threads",
        hypothesis("engine.oversubscribed", "engine", "worker", PID, {"address": "127.0.0.1:8080"}),
        _host(engines=(_ENGINE,)),
        "R2",
        ("16 -> 3 of 4 usable CPUs",),
    ),
    Case(
        "engine.restart",
        hypothesis("engine.down", "engine", "worker", PID, {"address": "127.0.0.1:8080"}),
        _host(engines=(_ENGINE,)),
        "R2",
        ("not answering -> restarted",),
    ),
    Case("host.collect_vmcore", hypothesis("kernel.deadlock", "host", "h"), _host(), "R0", ("/var/crash",)),
    Case(
        "kernel.block_module",
        hypothesis("kernel.null_dereference", "kernel_function", "f", labels={"module": "extra"}),
        crashed(modules=(ModuleInfo("extra", 0, 4096, "OE"), ModuleInfo("ext4", 0, 4096))),
        "R2",
        ("extra (taints OE): loaded -> not loaded", "/etc/modprobe.d/block-extra.conf"),
    ),
    Case(
        "kernel.trace_slab",
        hypothesis("kernel.out_of_memory", "kernel_function", "f", labels={"cache": "entries"}),
        crashed(),
        "R3",
        ("slub_debug=FZPU",),
    ),
    Case("engine.inspect", hypothesis("engine.down", "engine", "127.0.0.1:8080"), _host(), "R0", ("/health",)),
    *(
        Case(name, hypothesis("kernel.deadlock", "host", "h"), _host(), risk, (word,))
        for name, risk, word in (
            ("host.update_kernel", "R0", "6.1.0"),
            ("host.inspect_cooling", "R0", "sensors"),
            ("host.inspect_hypervisor", "R0", "steal"),
            ("host.inspect_coredump", "R0", "coredumpctl"),
            ("host.inspect_memory", "R0", "edac"),
            ("change.review", "R0", "dpkg.log"),
            ("host.compact_memory", "R1", "compact"),
            ("host.spread_interrupts", "R1", "smp_affinity"),
            ("host.reboot", "R3", "rebooted"),
        )
    ),
)


def full_filesystem(mount: Mount, devices: Mapping[str, BlockDevice]) -> Observation:
    return _host(mounts=(mount,), devices=devices, metrics=_SPACE)
