"""Two faults at once, and a quiet fault beside a neighbour that is loud and harmless."""

from __future__ import annotations

from tests.faults import cpu, healthy, io, mem, net, proc
from tests.faults.scenario import CPUS, Injected, compiler, controller, root, scenario, tool
from tests.faults.stage import Stage


def _both(one: Injected, other: Injected) -> Injected:
    return Injected(one.truths + other.truths, lambda: one.held() and other.held())


@scenario(
    "two/throttling+full", "cpu.throttling", "fs.full", needs=(root, compiler, controller("cpu"))
)  # fmt: skip
def throttling_and_full(stage: Stage) -> Injected:
    """One service is stopped by its quota while another has filled its spool."""
    return _both(cpu.throttling_threads(stage), io.full_tmpfs(stage))


@scenario("two/leak+backlog", "mem.leak", "net.backlog", needs=(compiler,))
def leak_and_backlog(stage: Stage) -> Injected:
    """One process leaks while another does not accept fast enough."""
    return _both(mem.leak_free(stage), net.backlog_python(stage))


@scenario(
    "two/zombies+slow-device",
    "proc.zombies",
    "io.latency",
    needs=(root, compiler, tool("losetup"), controller("blkio")),
)
def zombies_and_latency(stage: Stage) -> Injected:
    """One program does not reap its children; another waits for a slow device."""
    return _both(proc.zombies_c(stage), io.latency_reads(stage))


@scenario("beside/batch", "proc.fd_exhaustion", needs=(compiler,))
def beside_batch(stage: Stage) -> Injected:
    """A computation of least priority takes all idle CPU; a program is out of descriptors."""
    stage.spawn(stage.compiled("spin.c", "render"), str(CPUS), nice=19)
    return proc.fd_exhaustion_leak(stage)


@scenario("beside/backup", "proc.hung", needs=(tool("tar", "gzip"),))
def beside_backup(stage: Stage) -> Injected:
    """A backup reads and packs; a server is stopped."""
    healthy.run_backup(stage)
    return proc.hung_stopped(stage)


@scenario("beside/compile", "net.loss", needs=(root, compiler, tool("ip", "nft")))
def beside_compile(stage: Stage) -> Injected:
    """A build runs within the CPUs; a stream elsewhere loses packets."""
    healthy.compile_loop(stage, 1)
    return net.loss_stream(stage)
