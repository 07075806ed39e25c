"""The declared metrics: every series a collector emits has its name, unit, kind and label keys here.

Names follow the OpenTelemetry semantic conventions for system and process metrics where they exist, else the
same style under ``linux.``; a kernel counter keeps the kernel's own key as its last part, so that an operator
can grep it. Units are UCUM. A ``counter`` is cumulative and raw; a ``gauge`` is a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric. `labels` are the label keys its series carry."""

    name: str
    unit: str
    kind: Kind
    labels: tuple[str, ...]
    about: str


def _table(*rows: tuple[str, str, Kind, str, str]) -> dict[str, Metric]:
    return {name: Metric(name, unit, kind, tuple(labels.split()), about) for name, unit, kind, labels, about in rows}


_HOST = _table(
    (
        "system.cpu.time",
        "s",
        "counter",
        "cpu state",
        "time per CPU in user nice system idle iowait irq softirq steal (guest is inside user)",
    ),
    ("system.cpu.logical.count", "{cpu}", "gauge", "", "online CPUs"),
    ("system.cpu.frequency", "Hz", "gauge", "cpu", "current clock (cpufreq, else absent)"),
    ("linux.cpu.frequency.nominal", "Hz", "gauge", "cpu", "base or maximum clock the CPU is specified for"),
    ("linux.cpu.throttle", "{event}", "counter", "cpu scope", "thermal throttle events, scope core or package"),
    ("linux.cpu.run_delay", "s", "counter", "cpu", "time runnable tasks waited for this CPU (/proc/schedstat)"),
    ("linux.thermal.temperature", "Cel", "gauge", "zone", "thermal zone temperature"),
    ("linux.tasks.runnable", "{task}", "gauge", "", "runnable tasks right now (procs_running)"),
    ("linux.tasks.blocked", "{task}", "gauge", "", "tasks in uninterruptible sleep for I/O (procs_blocked)"),
    ("linux.tasks.count", "{task}", "gauge", "", "threads on the host"),
    ("linux.tasks.limit", "{task}", "gauge", "", "the lower of threads-max and pid_max"),
    ("linux.load_1m", "{task}", "gauge", "", "load average over one minute"),
    ("system.process.created", "{process}", "counter", "", "tasks forked since boot"),
    ("system.context_switches", "{switch}", "counter", "", "context switches"),
    ("system.interrupts", "{interrupt}", "counter", "", "hardware interrupts"),
    ("linux.interrupts", "{interrupt}", "counter", "irq cpu", "hardware interrupts by line (busy lines only)"),
    ("linux.softirqs", "{interrupt}", "counter", "vector cpu", "soft interrupts by vector"),
    ("linux.softnet.dropped", "{packet}", "counter", "cpu", "packets dropped from a CPU's backlog"),
    ("linux.softnet.squeezed", "{event}", "counter", "cpu", "times softirq ran out of budget with work left"),
    ("linux.psi.cpu.some", "s", "counter", "", "time in which some task waited for CPU"),
    ("linux.psi.cpu.full", "s", "counter", "", "time in which all tasks waited for CPU"),
    ("linux.psi.memory.some", "s", "counter", "", "time in which some task stalled on memory"),
    ("linux.psi.memory.full", "s", "counter", "", "time in which all tasks stalled on memory"),
    ("linux.psi.io.some", "s", "counter", "", "time in which some task stalled on I/O"),
    ("linux.psi.io.full", "s", "counter", "", "time in which all tasks stalled on I/O"),
    ("linux.psi.irq.full", "s", "counter", "", "time lost to interrupts"),
    ("system.memory.limit", "By", "gauge", "", "MemTotal"),
    (
        "system.memory.usage",
        "By",
        "gauge",
        "state",
        "memory by state: free available buffers cached slab_unreclaimable slab_reclaimable anon shmem dirty writeback page_tables kernel_stack mlocked committed hugepages",
    ),
    ("system.paging.usage", "By", "gauge", "state", "swap used and free"),
    ("linux.vmstat", "{event}", "counter", "key", "counters of /proc/vmstat that diagnosis reads; key as in the file"),
    ("linux.buddy.free", "{block}", "gauge", "node zone order", "free blocks per order (/proc/buddyinfo)"),
    ("linux.fd.open", "{fd}", "gauge", "", "open files on the host"),
    ("linux.fd.limit", "{fd}", "gauge", "", "fs.file-max"),
    ("linux.entropy", "bit", "gauge", "", "kernel entropy available"),
    (
        "linux.numa",
        "{page}",
        "counter",
        "node key",
        "numa_hit numa_miss numa_foreign local_node other_node interleave_hit",
    ),
    ("linux.numa.memory", "By", "gauge", "node state", "memory of a node: total free"),
    ("linux.edac", "{error}", "counter", "controller kind", "memory errors, kind ce or ue"),
    ("linux.mce", "{event}", "counter", "", "machine check exceptions (the MCE line of /proc/interrupts)"),
)

_BLOCK = _table(
    ("system.disk.io", "By", "counter", "device direction", "bytes read and written"),
    (
        "system.disk.operations",
        "{operation}",
        "counter",
        "device direction",
        "requests completed: read write discard flush",
    ),
    ("system.disk.operation_time", "s", "counter", "device direction", "time requests took, summed"),
    ("system.disk.io_time", "s", "counter", "device", "time with requests in flight"),
    ("linux.disk.queue_time", "s", "counter", "device", "in-flight requests integrated over time"),
    ("linux.disk.inflight", "{operation}", "gauge", "device", "requests in flight"),
    (
        "linux.disk.latency",
        "s",
        "gauge",
        "device quantile",
        "block request latency in the tick (eBPF), quantile 0.5 0.99 1",
    ),
    ("linux.disk.process_io", "By", "counter", "device pid direction", "bytes by issuing process (eBPF)"),
    (
        "linux.disk.process_operations",
        "{operation}",
        "counter",
        "device pid direction",
        "requests by issuing process (eBPF)",
    ),
    ("linux.disk.process_time", "s", "counter", "device pid direction", "request time by issuing process (eBPF)"),
    (
        "system.filesystem.usage",
        "By",
        "gauge",
        "mountpoint state",
        "space: used free reserved; mountpoint as this host sees it",
    ),
    ("system.filesystem.limit", "By", "gauge", "mountpoint", "size"),
    (
        "linux.filesystem.inodes",
        "{inode}",
        "gauge",
        "mountpoint state",
        "inodes used and free (absent where the filesystem has no fixed number)",
    ),
    (
        "linux.filesystem.readonly",
        "1",
        "gauge",
        "mountpoint",
        "1 where the kernel made it read-only after an error (0 for a person's choice)",
    ),
    ("linux.filesystem.unresponsive", "1", "gauge", "mountpoint", "1 where a remote filesystem does not answer"),
    ("linux.filesystem.errors", "{error}", "counter", "device", "ext4 errors_count of the mounted device"),
)

_NETWORK = _table(
    (
        "system.network.io",
        "By",
        "counter",
        "interface netns direction",
        "bytes, direction receive or transmit; netns is empty for the host's own, else its inode number",
    ),
    ("system.network.packets", "{packet}", "counter", "interface netns direction", "packets"),
    ("system.network.errors", "{error}", "counter", "interface netns direction", "errors"),
    ("system.network.dropped", "{packet}", "counter", "interface netns direction", "drops"),
    (
        "linux.network.up",
        "1",
        "gauge",
        "interface netns",
        "1 where it is up, with carrier, and operstate up or unknown; absent where it is down and was never used",
    ),
    ("linux.network.carrier_changes", "{change}", "counter", "interface netns", "carrier changes"),
    (
        "linux.snmp",
        "{event}",
        "counter",
        "key netns",
        "protocol counters, key as Proto.Name: Tcp.RetransSegs, TcpExt.ListenOverflows, Udp.RcvbufErrors …",
    ),
    (
        "linux.tcp.sockets",
        "{socket}",
        "gauge",
        "state netns",
        "TCP sockets by state, lower case: established, time_wait, close_wait …",
    ),
    (
        "linux.tcp.listen.queue",
        "{connection}",
        "gauge",
        "address netns",
        "connections waiting to be accepted (address as ip:port)",
    ),
    ("linux.tcp.listen.backlog", "{connection}", "gauge", "address netns", "accept queue limit"),
    (
        "linux.tcp.peer.sockets",
        "{socket}",
        "gauge",
        "peer netns",
        "established sockets towards a peer address (ip), busiest peers",
    ),
    ("linux.tcp.peer.rtt", "s", "gauge", "peer netns", "median smoothed round-trip time"),
    (
        "linux.tcp.peer.min_rtt",
        "s",
        "gauge",
        "peer netns",
        "lowest round-trip time the kernel has seen on the current sockets",
    ),
    ("linux.tcp.peer.retransmits", "{segment}", "gauge", "peer netns", "total retransmits of the current sockets"),
    ("linux.tcp.peer.unacked", "{segment}", "gauge", "peer netns", "segments in flight"),
    (
        "linux.tcp.retransmits",
        "{segment}",
        "counter",
        "peer netns",
        "retransmitted segments by peer (eBPF; netns empty where unknown)",
    ),
    ("linux.tcp.resets", "{segment}", "counter", "peer direction", "resets sent and received by peer (eBPF)"),
    (
        "linux.tcp.ports.used",
        "{port}",
        "gauge",
        "destination netns",
        "distinct local ports in use towards ip:port, busiest destinations",
    ),
    ("linux.tcp.ports.range", "{port}", "gauge", "netns", "size of ip_local_port_range"),
    (
        "linux.tcp.listen.overflows",
        "{connection}",
        "counter",
        "port",
        "connections dropped at a full accept queue (eBPF)",
    ),
    ("linux.packet_drops", "{packet}", "counter", "reason", "packets freed for a reason that is a drop (eBPF)"),
    ("linux.conntrack.count", "{connection}", "gauge", "", "tracked connections"),
    ("linux.conntrack.limit", "{connection}", "gauge", "", "nf_conntrack_max"),
)

_CGROUP = _table(
    ("linux.cgroup.cpu.usage", "s", "counter", "cgroup", "CPU time"),
    ("linux.cgroup.cpu.periods", "{period}", "counter", "cgroup", "quota periods elapsed while runnable"),
    ("linux.cgroup.cpu.throttled_periods", "{period}", "counter", "cgroup", "quota periods in which it was stopped"),
    ("linux.cgroup.cpu.throttled_time", "s", "counter", "cgroup", "time stopped by the quota, summed over CPUs"),
    ("linux.cgroup.cpu.quota", "{cpu}", "gauge", "cgroup", "CPUs the quota grants (absent without one)"),
    ("linux.cgroup.memory.usage", "By", "gauge", "cgroup", "memory charged"),
    ("linux.cgroup.memory.limit", "By", "gauge", "cgroup", "hard limit (absent without one)"),
    ("linux.cgroup.memory.high", "By", "gauge", "cgroup", "memory.high or v1 soft limit (absent without one)"),
    ("linux.cgroup.memory.anon", "By", "gauge", "cgroup", "anonymous memory"),
    ("linux.cgroup.memory.file", "By", "gauge", "cgroup", "page cache"),
    ("linux.cgroup.memory.events", "{event}", "counter", "cgroup key", "low high max oom oom_kill; max is v1 failcnt"),
    (
        "linux.cgroup.memory.faults",
        "{fault}",
        "counter",
        "cgroup key",
        "pgfault pgmajfault pgscan pgsteal workingset_refault_anon workingset_refault_file pgpgin pgpgout",
    ),
    ("linux.cgroup.memory.swap", "By", "gauge", "cgroup", "swap charged"),
    ("linux.cgroup.pids", "{task}", "gauge", "cgroup", "tasks"),
    ("linux.cgroup.pids.limit", "{task}", "gauge", "cgroup", "pids.max (absent without one)"),
    ("linux.cgroup.pids.refused", "{event}", "counter", "cgroup", "forks refused by the limit"),
    ("linux.cgroup.io", "By", "counter", "cgroup device direction", "bytes"),
    ("linux.cgroup.io.operations", "{operation}", "counter", "cgroup device direction", "requests"),
    ("linux.cgroup.psi", "s", "counter", "cgroup resource kind", "stall time, resource cpu memory io, kind some full"),
)

_PROCESS = _table(
    ("process.cpu.time", "s", "counter", "pid state", "CPU time, state user or system"),
    ("process.memory.usage", "By", "gauge", "pid", "resident memory"),
    ("process.memory.virtual", "By", "gauge", "pid", "address space"),
    ("linux.process.memory.anon", "By", "gauge", "pid", "private anonymous memory (RssAnon plus VmSwap)"),
    ("process.paging.faults", "{fault}", "counter", "pid type", "page faults, type minor or major"),
    (
        "process.disk.io",
        "By",
        "counter",
        "pid direction",
        "bytes caused to storage (/proc/PID/io read_bytes, write_bytes)",
    ),
    ("linux.process.syscall_io", "By", "counter", "pid direction", "bytes through read and write calls (rchar, wchar)"),
    ("process.open_file_descriptor.count", "{fd}", "gauge", "pid", "open files"),
    ("linux.process.fd.limit", "{fd}", "gauge", "pid", "soft RLIMIT_NOFILE"),
    ("process.thread.count", "{thread}", "gauge", "pid", "threads"),
    (
        "process.context_switches",
        "{switch}",
        "counter",
        "pid type",
        "voluntary and involuntary, of all threads where affordable, else of the leader",
    ),
    ("linux.process.run_delay", "s", "counter", "pid", "time its threads were runnable but waited for a CPU"),
    ("linux.process.blkio_delay", "s", "counter", "pid", "time waited for block I/O (delay accounting)"),
    (
        "linux.process.delay",
        "s",
        "counter",
        "pid cause",
        "taskstats delays: cpu blkio swapin freepages thrashing compact wpcopy irq",
    ),
    ("linux.process.state", "1", "gauge", "pid state", "1 for the current state letter of /proc/PID/stat"),
    (
        "linux.process.children.reaped_faults",
        "{fault}",
        "counter",
        "pid",
        "minor faults of waited-for children: work of short-lived children",
    ),
    ("linux.process.children.cpu_time", "s", "counter", "pid", "CPU time of waited-for children"),
    (
        "linux.process.children.vanished",
        "{process}",
        "counter",
        "pid comm",
        "children that were there at one look and had ended by the next, by parent pid: the child's comm",
    ),
    ("linux.process.numa", "By", "gauge", "pid node", "memory by node (numa_maps; only large processes)"),
    ("linux.processes.zombie", "{process}", "gauge", "", "zombies on the host"),
    ("linux.unit.restarts", "{restart}", "counter", "unit", "restarts by systemd (units that had some only)"),
    ("linux.unit.failed", "1", "gauge", "unit", "1 where the unit failed or waits for its restart"),
)

_TRACE = _table(
    ("linux.sched.runqueue.latency", "s", "gauge", "quantile", "run-queue latency in the tick, quantile 0.5 0.99 1"),
    ("linux.sched.runqueue.wait", "s", "counter", "", "run-queue wait summed"),
    ("linux.sched.runqueue.count", "{wakeup}", "counter", "", "waits counted"),
    ("linux.process.runqueue.wait", "s", "counter", "pid", "run-queue wait by process (eBPF)"),
    (
        "linux.process.offcpu",
        "s",
        "counter",
        "pid reason",
        "off-CPU time by reason: sleep uninterruptible preempted futex io",
    ),
    ("linux.process.futex.wait", "s", "counter", "pid", "time in futex waits"),
    ("linux.process.futex.count", "{wait}", "counter", "pid", "futex waits"),
    ("linux.process.reclaim.stall", "s", "counter", "pid", "time in direct reclaim"),
    ("linux.process.reclaim.count", "{stall}", "counter", "pid", "direct reclaims"),
    (
        "linux.process.syscall.errors",
        "{error}",
        "counter",
        "pid errno",
        "failed system calls, errno by name (EAGAIN, EINTR and the like left out)",
    ),
    ("linux.process.forks", "{process}", "counter", "pid", "children created, by parent"),
    ("linux.process.execs", "{process}", "counter", "pid", "programs executed by its children (eBPF)"),
    ("linux.interrupt.time", "s", "counter", "kind vector", "time in hard (vector: line name) and soft interrupts"),
    ("linux.process.threads_created", "{thread}", "counter", "pid", "threads created (eBPF)"),
    (
        "linux.process.children.ended",
        "{process}",
        "counter",
        "pid comm outcome",
        "children that ended, by parent pid: the child's comm, outcome ok, exit N or signal N (eBPF)",
    ),
    ("linux.process.children.lived", "s", "counter", "pid comm outcome", "how long they lived, summed (eBPF)"),
    ("linux.disk.errors", "{error}", "counter", "device direction", "block requests that failed (eBPF)"),
    ("linux.page_migrations", "{page}", "counter", "reason", "pages migrated between nodes"),
)

_ENGINE = _table(
    (
        "wardround.engine.up",
        "1",
        "gauge",
        "engine",
        "1 where the inference engine answers its health check; engine as ip:port",
    ),
    ("wardround.engine.health_time", "s", "gauge", "engine", "time the health check took"),
    ("gen_ai.server.requests.running", "{request}", "gauge", "engine", "requests in work"),
    ("gen_ai.server.requests.waiting", "{request}", "gauge", "engine", "requests queued"),
    ("gen_ai.server.tokens", "{token}", "counter", "engine type", "tokens, type input or output"),
    ("gen_ai.server.token_time", "s", "counter", "engine type", "time spent on them"),
    ("hw.gpu.utilization", "1", "gauge", "gpu", "share of time with work on the GPU"),
    ("hw.gpu.memory.usage", "By", "gauge", "gpu", "device memory used"),
    ("hw.gpu.memory.limit", "By", "gauge", "gpu", "device memory"),
    ("hw.gpu.temperature", "Cel", "gauge", "gpu", "temperature"),
    ("hw.gpu.clock", "Hz", "gauge", "gpu", "SM clock"),
    ("hw.gpu.power", "W", "gauge", "gpu", "power draw"),
    ("hw.gpu.throttle", "1", "gauge", "gpu reason", "1 where clocks are held down for the reason"),
    (
        "hw.gpu.errors",
        "{error}",
        "counter",
        "gpu kind",
        "ECC errors (corrected, uncorrected), remapped rows, PCIe replays",
    ),
    ("hw.gpu.process.memory", "By", "gauge", "gpu pid", "device memory by process"),
)

_SELF = _table(
    (
        "wardround.ebpf.coverage",
        "1",
        "gauge",
        "subject",
        "share of the tick that was traced: below 1 where events are too frequent to trace them all",
    ),
    ("wardround.collector.time", "s", "gauge", "collector", "CPU time the collector's last tick took"),
    ("wardround.tick.delay", "s", "gauge", "", "how late the tick began"),
    (
        "wardround.log.records",
        "{record}",
        "counter",
        "source unit template",
        "log records of one mined template (named by anomalies only)",
    ),
)

METRICS: dict[str, Metric] = {
    **_HOST,
    **_BLOCK,
    **_NETWORK,
    **_CGROUP,
    **_PROCESS,
    **_TRACE,
    **_ENGINE,
    **_SELF,
}
