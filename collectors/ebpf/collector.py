"""What only tracing sees: waits for a CPU and off it by reason, block latency by device and process, reclaim stalls,
interrupt time, failing calls, retransmits and drops by peer and reason, lives and deaths of processes.

Source: eBPF programs on tracepoints (``programs/*.c``, one a subject), compiled by BCC in a process that exits.
Needs: root (or CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN), BCC for some Python here, headers of any kernel, BTF.
It starts in the background: reads are empty for the first second or two. Subjects whose events are too frequent are
traced a share of the time and scaled back (``gate``, ``wardround.ebpf.coverage``).
Measured: loaded 0.7 to 1.2 s after `start` (0.6 s of CPU in the loader), 1.2 MiB more resident memory here, of that
0.4 MiB anonymous; a read 1 ms of CPU at rest, the governor 0.4 ms a second. What the traced pay:
``benchmarks/ebpf_overhead.py``.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import structlog

from collectors.base import Capability, Reading, Roots
from collectors.ebpf.bpf import Map
from collectors.ebpf.gate import Gate, Governor
from collectors.ebpf.handover import Loaded, Program, load
from collectors.ebpf.host import EbpfHost, inspect_host
from collectors.ebpf.subjects.block import BlockReader
from collectors.ebpf.subjects.interrupts import InterruptReader
from collectors.ebpf.subjects.lifecycle import LifecycleReader
from collectors.ebpf.subjects.memory import MemoryReader
from collectors.ebpf.subjects.network import NetworkReader
from collectors.ebpf.subjects.reader import Moment, Reader
from collectors.ebpf.subjects.sched import SchedReader
from collectors.ebpf.subjects.syscalls import SyscallReader
from collectors.tally import Sink
from wardround.errors import CapabilityMissing
from wardround.models.records import KernelEvent
from wardround.models.series import Catalogue, Frame

log = structlog.get_logger(__name__)

# subject -> (tracepoints, seconds an event costs, share of a CPU it may take). Costs are measured with the programs
# attached to a pinned `perf bench sched pipe`, dispatch included.
GATED: dict[str, tuple[tuple[str, ...], float, float]] = {
    "sched": (("sched_switch",), 400e-9, 0.004),
    "syscalls": (("sys_exit",), 120e-9, 0.003),
    "interrupts": (("irq_handler_entry", "irq_handler_exit", "softirq_entry", "softirq_exit"), 300e-9, 0.004),
    "block": (("block_io_start", "block_rq_issue", "block_rq_complete"), 900e-9, 0.004),
}
# Join the block requests where a device handles bios without them: they cost every request elsewhere.
BIO_TRACEPOINTS = ("block_bio_queue", "block_bio_complete")


class EbpfCollector:
    """All subjects, loaded together. `state` is ``idle loading running failed stopped``; `reason` says why failed.

    A borrowed header tree is kept in the roots' `cache_dir`; with `bounded` False every event is traced, whatever
    that costs.
    """

    name = "collectors.ebpf"
    every = 1

    def __init__(self, catalogue: Catalogue, roots: Roots, bounded: bool = True) -> None:
        self._bounded = bounded
        self._catalogue, self._roots = catalogue, roots
        self.state, self.reason = "idle", ""
        self.loaded: Loaded | None = None
        self.loader_pid: int | None = None
        self.gates: list[Gate] = []
        self._readers: dict[str, Reader] = {}
        self._governor: Governor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._sink = Sink(catalogue)
        self._lock = threading.Lock()
        self._starts = 0

    def probe(self) -> Capability:
        """Say whether tracing can start; after a failed start, why it failed."""
        if self.state == "failed":
            return Capability(False, self.reason, None)
        host = self.inspect()
        return Capability(not host.missing, "; ".join(host.missing), "; ".join(host.improve) or None)

    def inspect(self) -> EbpfHost:
        return inspect_host(sys=Path(self._roots.sys))

    @property
    def failure(self) -> str:
        """Why nothing is traced though tracing was started; empty while it runs."""
        return {"failed": self.reason, "loading": "its programs were still being loaded at the end"}.get(self.state, "")

    @property
    def partial(self) -> str:
        """Which tracepoints or subjects are left out and why, as one sentence."""
        return "; ".join(f"{name} is not traced: {reason}" for name, reason in self.skipped.items())

    @property
    def own_pids(self) -> tuple[int, ...]:
        """The loader's process, also after its end."""
        return (self.loader_pid,) if self.loader_pid is not None else ()

    @property
    def skipped(self) -> dict[str, str]:
        """What this kernel does not offer, by tracepoint or subject, and why. Empty until loaded."""
        return dict(self.loaded.skipped) if self.loaded is not None else {}

    def start(self) -> None:
        """Begin loading in the background and return at once."""
        with self._lock:
            self.state, self.reason = "loading", ""
            self._sink = Sink(self._catalogue)
            self._starts += 1
        self._thread = threading.Thread(target=self._load, args=(self._starts,), name="ebpf-loader", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Wait until loading (or unloading) has ended; return whether the programs run."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.state == "running"

    def stop(self) -> None:
        """End a loader under way, detach and unload everything.

        Leaving ten tracepoints takes the kernel half a second: it goes on in the background, `wait` waits for it.
        """
        with self._lock:
            self.state = "stopped"
            process, governor, loaded = self._process, self._governor, self.loaded
            self._governor, self.loaded, self._readers, self.gates = None, None, {}, []
        if process is not None and process.poll() is None:
            process.kill()
        if loaded is not None:
            self._thread = threading.Thread(target=_unload, args=(governor, loaded), name="ebpf-unload", daemon=True)
            self._thread.start()

    def read(self, time: float, clock: float) -> Reading:
        with self._lock:
            if self.state != "running":
                return Reading(Frame.empty(time, clock))
            sink, events = self._sink, list[KernelEvent]()
            scales: dict[str, float | None] = {gate.subject: gate.scale() for gate in self.gates}
            for subject, reader in self._readers.items():
                events += reader.read(sink, Moment(time, clock, scales.get(subject, 1.0)))
            for subject, scale in scales.items():
                if scale is not None:
                    sink.put(self._catalogue.id("wardround.ebpf.coverage", subject=subject), 1.0 / scale)
            return Reading(sink.frame(time, clock), events=tuple(events))

    def _load(self, start: int) -> None:
        try:
            missing = self.inspect().missing
            if missing:
                raise CapabilityMissing("; ".join(missing))
            loaded = load(self._roots.cache_dir, started=self._remember)
        except (CapabilityMissing, OSError) as error:
            with self._lock:
                if self.state == "loading" and start == self._starts:  # not stopped meanwhile
                    self.state, self.reason = "failed", str(error).replace("\n", ": ")
                    log.info("ebpf_unavailable", reason=self.reason)
            return
        with self._lock:
            if self.state != "loading" or start != self._starts:  # stopped meanwhile
                loaded.close()
                return
            self._attach(loaded)
        log.info("ebpf_loaded", seconds=loaded.seconds, programs=len(loaded.programs), skipped=loaded.skipped)

    def _remember(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.loader_pid = process, process.pid

    def _attach(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._readers = self._build_readers(loaded)
        later = {name for tracepoints, _, _ in GATED.values() for name in tracepoints} | set(BIO_TRACEPOINTS)
        _attach_all([name for name in loaded.programs if name not in later], loaded)
        self.gates = [gate for subject in GATED if (gate := _gate(subject, loaded, self._bounded)) is not None]
        self._governor = Governor(self.gates)
        self.state = "running"
        self._governor.start()

    def _build_readers(self, loaded: Loaded) -> dict[str, Reader]:
        maps, catalogue, enums = loaded.maps, self._catalogue, loaded.enums
        builders: dict[str, Callable[[], Reader]] = {
            "sched": lambda: SchedReader(maps, catalogue),
            "syscalls": lambda: SyscallReader(maps, catalogue),
            "interrupts": lambda: InterruptReader(maps, catalogue, Path(self._roots.proc) / "interrupts"),
            "block": lambda: BlockReader(maps, catalogue, Path(self._roots.sys), lambda: self._follow_bios(loaded)),
            "memory": lambda: MemoryReader(maps, catalogue, enums.get("migrate_reason", {})),
            "network": lambda: NetworkReader(maps, catalogue, enums.get("skb_drop_reason", {})),
            "lifecycle": lambda: LifecycleReader(maps, catalogue),
        }
        readers: dict[str, Reader] = {}
        for subject, build in builders.items():
            try:
                readers[subject] = build()
            except KeyError:  # its programs did not compile here: `skipped` says why
                continue
        return readers

    def _follow_bios(self, loaded: Loaded) -> None:
        for gate in self.gates:
            if gate.subject == "block":
                gate.add(_usable(BIO_TRACEPOINTS, loaded))


def _unload(governor: Governor | None, loaded: Loaded) -> None:
    if governor is not None:
        governor.halt()
    loaded.close()


def _attach_all(names: Collection[str], loaded: Loaded) -> None:
    """Attach these programs; what cannot be attached is skipped with its reason."""
    for name in names:
        program = loaded.programs.get(name)
        if program is not None:
            try:
                program.attach()
            except OSError as error:
                loaded.skipped[name] = str(error)


def _usable(names: Collection[str], loaded: Loaded) -> list[Program]:
    """Return those of these programs whose tracepoints can be attached to; the others are skipped with the reason."""
    usable = []
    for name in names:
        program = loaded.programs.get(name)
        if program is not None:
            try:
                program.attach()
                program.detach()
            except OSError as error:
                loaded.skipped[name] = str(error)
            else:
                usable.append(program)
    return usable


def _gate(subject: str, loaded: Loaded, bounded: bool) -> Gate | None:
    tracepoints, cost, budget = GATED[subject]
    usable = _usable(tracepoints, loaded)
    if not usable or f"{subject}_events" not in loaded.maps:
        return None
    events = Map(loaded.maps[f"{subject}_events"], np.dtype("u4"), np.dtype("u8"))
    opened = loaded.maps.get(f"{subject}_opened")
    return Gate(
        subject,
        usable,
        events,
        cost,
        budget if bounded else float("inf"),
        Map(opened, np.dtype("u4"), np.dtype("u8")) if opened is not None else None,
    )
